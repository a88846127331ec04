package supervise

import (
	"time"

	"github.com/secexec/secexec/sealed"
)

// Back-off between a program's end and its next start, as container engines
// have it: it doubles with each start, and a program that ran for a while begins
// anew. A factor by chance keeps many guests from starting in step.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = time.Minute
	settled    = 10 * time.Second

	afterKill = 10 * time.Second // what the kernel may take to end a program
)

// state is where the workload is.
//
//	               Started           asked to restart or stop
//	waiting ─────────────▶ running ─────────────────────────▶ stopping
//	   ▲                      │ Exited                           │ Exited; killed when its time is up
//	   │   the policy and the │                                  │
//	   │   budget allow it    ▼                                  ▼
//	   └──────────────────────┴── else, or asked to stop ──▶ ended
type state uint8

const (
	waiting  state = iota // for the time of the next start
	running               // the program runs
	stopping              // it was asked to end
	killing               // it was killed
	ended                 // for good; the guest powers off
)

// Action is what a Machine wants done. Each is done at once.
type Action uint8

// Actions.
const (
	Nothing  Action = iota
	Start           // start the program, then call Started, or Exited if that fails
	Stop            // send the program its stop signal
	Kill            // kill all that the program has started
	PowerOff        // power off: the program is not run again
)

// Machine decides when the workload's program is started, stopped and given up.
// It is pure: times are handed in, and after each call the one Action that it
// returns is to be done. Times are on one monotonic clock that never goes back.
type Machine struct {
	policy   sealed.RestartPolicy
	max      uint32 // restarts in window
	window   time.Duration
	patience time.Duration // from stop signal to kill
	chance   func() float64
	state    state
	deadline time.Time     // of waiting, stopping and killing
	began    time.Time     // of the program that runs
	pause    time.Duration // before the next start
	budget   []time.Time   // restarts within the window
	starts   uint32
	again    bool // stopping: to be run again
	stop     bool // asked to stop for good
	Status   uint8
}

// NewMachine returns a machine for a workload, whose first start is due. chance
// returns a number in [0, 1).
func NewMachine(w *sealed.Workload, now time.Time, chance func() float64) *Machine {
	return &Machine{
		policy: w.Restart, max: w.MaxRestarts, window: time.Duration(w.WindowSecs) * time.Second,
		patience: time.Duration(w.StopSeconds) * time.Second, chance: chance, deadline: now, pause: firstPause,
	}
}

// Restarts is how often the program was started again.
func (m *Machine) Restarts() uint32 { return max(m.starts, 1) - 1 }

// Deadline is when Tick is due; ok is false where only an event goes on.
func (m *Machine) Deadline() (t time.Time, ok bool) {
	return m.deadline, m.state == waiting || m.state == stopping || m.state == killing
}

// Tick is to be called at the deadline; before it, it does nothing.
func (m *Machine) Tick(now time.Time) Action {
	if due, ok := m.Deadline(); !ok || now.Before(due) {
		return Nothing
	}
	switch m.state {
	case stopping:
		m.state, m.deadline = killing, now.Add(afterKill)
		return Kill
	case killing:
		return m.end()
	}
	return Start
}

// Started says that the program runs.
func (m *Machine) Started(now time.Time) {
	m.state, m.began = running, now
	m.starts++
}

// Exited says that the program, and all that it had started, has ended, or that
// it could not be started: with a status of 0 to 255, where 128+n is signal n.
func (m *Machine) Exited(status uint8, now time.Time) Action {
	ran := m.state != waiting
	if m.state == ended {
		return Nothing
	}
	m.Status = status
	switch {
	case m.stop:
		return m.end()
	case m.again:
		m.again, m.pause = false, firstPause
		m.state, m.deadline = waiting, now
		return m.Tick(now)
	case m.policy == sealed.RestartNever, m.policy == sealed.RestartOnFailure && status == 0, !m.afford(now):
		return m.end()
	}
	if ran && now.Sub(m.began) >= settled {
		m.pause = firstPause
	}
	m.state = waiting
	m.deadline = now.Add(time.Duration((0.75 + m.chance()/2) * float64(m.pause)))
	m.pause = min(2*m.pause, maxPause)
	return Nothing
}

// afford takes a restart from the budget.
func (m *Machine) afford(now time.Time) bool {
	if m.max == 0 {
		return true
	}
	for len(m.budget) > 0 && now.Sub(m.budget[0]) >= m.window {
		m.budget = m.budget[1:]
	}
	if uint32(len(m.budget)) >= m.max {
		return false
	}
	m.budget = append(m.budget, now)
	return true
}

func (m *Machine) end() Action {
	m.state = ended
	return PowerOff
}

// AskStop asks for an orderly end and power-off.
func (m *Machine) AskStop(now time.Time) Action {
	if m.state == ended {
		return Nothing
	}
	m.stop, m.again = true, false
	return m.ask(now)
}

// AskRestart asks for an orderly end and another start, whatever the policy;
// the budget is not touched.
func (m *Machine) AskRestart(now time.Time) Action {
	if m.stop || m.state == ended {
		return Nothing
	}
	m.again = true
	return m.ask(now)
}

func (m *Machine) ask(now time.Time) Action {
	switch {
	case m.state == running:
		m.state, m.deadline = stopping, now.Add(m.patience)
		return Stop
	case m.state == waiting && m.stop:
		return m.end()
	case m.state == waiting: // again: it starts as soon as it can
		m.again, m.pause, m.deadline = false, firstPause, now
		return m.Tick(now)
	}
	return Nothing // it is ending already
}
