package readiness

import (
	"math"
	"time"

	"github.com/secexec/secexec/proto/workload"
)

// GuestState is how far a guest has come, as guestagent sees it.
type GuestState uint8

// States of a guest, in order; there is no way back.
const (
	Starting GuestState = iota // guestinit has not handed over yet
	Running                    // the workload runs, and is to say READY=1
	Ready                      // it counts as ready
	Ended                      // its one program ended for good, or guestinit gave up
)

func (s GuestState) String() string {
	return [...]string{"starting", "running", "ready", "ended"}[s]
}

// Bounds of what a host and a workload may cost the guest.
const (
	perSecond     = 64    // lines and reads of the host's
	maxRead       = 4096  // bytes of one read
	stopAgain     = 5_000 // milliseconds before a further POWEROFF asks the workload again
	maxGuestStage = 16
)

// Effect is what an end is to do after an event: a Message to write to the
// port, or one of Sign, Stop and Restart.
type Effect any

// Effects of the guest's end.
type (
	// Sign asks for a report over a nonce to be written to the port.
	Sign struct{ Nonce [NonceSize]byte }
	// Stop asks the workload to end and the guest to power off.
	Stop struct{}
	// Restart asks for the workload to be run again: its watchdog barked.
	Restart struct{}
)

// Guest is the guest's end of the protocol once guestagent has the port. It is a
// pure state machine: events and the time in, effects out, in order. Times are
// milliseconds since the kernel started and never go back.
//
//	             Hand over           READY=1 (at once, unless sealed otherwise)
//	Starting ──────────────▶ Running ──────────────────────▶ Ready
//	    └─────────────────────┴────── Done, Failed ───────────┴──▶ Ended
type Guest struct {
	Boot     [IDSize]byte
	AtNotify bool // ready at READY=1, not at the hand-over
	// Supervised says that guestinit is PID 1 still and can run the workload again.
	Supervised bool

	state     GuestState
	stages    []Stage
	version   uint16  // that the host speaks
	last      Message // in Ended: EXIT, or FAIL
	unhealthy bool
	stopping  bool // STOPPING=1, or EXITED: the watchdog sleeps
	status    string

	early     bool   // POWEROFF came before the hand-over
	stoppedAt uint64 // when Stop was asked for last, 0: never

	lines  Lines
	rest   []byte // read, not taken yet
	window uint64 // since when taken counts
	taken  int

	every uint64 // the watchdog's time, 0: none
	due   uint64
}

// NewGuest makes a guest's end with the stages that guestinit told of.
func NewGuest(boot [IDSize]byte, atNotify, supervised bool, passed []Stage) *Guest {
	return &Guest{Boot: boot, AtNotify: atNotify, Supervised: supervised, version: 1, stages: append([]Stage(nil), passed...)}
}

// State tells how far the guest has come.
func (g *Guest) State() GuestState { return g.state }

// Stages are the stages passed, in order.
func (g *Guest) Stages() []Stage { return g.stages }

// Health is what the owner may see: STATUS of the workload, and whether it keeps
// its watchdog's time.
func (g *Guest) Health() (status string, healthy bool) { return g.status, !g.unhealthy }

// Wants tells whether the port may be read. A host that sends more than
// perSecond waits.
func (g *Guest) Wants(now uint64) bool { return len(g.rest) == 0 && g.allowed(now) }

// Next is when Tick is to be called though nothing happened; ok is false for
// never.
func (g *Guest) Next(now uint64) (at uint64, ok bool) {
	at = math.MaxUint64
	if g.every > 0 && !g.stopping && !g.unhealthy {
		at = g.due
	}
	if !g.Wants(now) {
		at = min(at, g.window+1000)
	}
	return at, at != math.MaxUint64
}

// Read takes what was read from the port, when Wants allowed it.
func (g *Guest) Read(b []byte, now uint64) []Effect {
	g.allowed(now)
	g.taken++ // a byte at a time costs no less
	g.rest = append(g.rest, b[:min(len(b), maxRead)]...)
	return g.Tick(now)
}

// HungUp forgets the host: the next one may be another.
func (g *Guest) HungUp() {
	g.lines.Reset()
	g.rest, g.version = nil, 1
}

// Tick does what the time brings.
func (g *Guest) Tick(now uint64) (out []Effect) {
	if g.every > 0 && !g.stopping && !g.unhealthy && now >= g.due {
		out = g.bark()
	}
	for len(g.rest) > 0 && g.allowed(now) {
		line, rest, ok := g.lines.Next(g.rest)
		if g.rest = rest; ok {
			g.taken++
			out = append(out, g.line(line, now)...)
		}
	}
	return out
}

func (g *Guest) allowed(now uint64) bool {
	if now-g.window >= 1000 {
		g.window, g.taken = now, 0
	}
	return g.taken < perSecond
}

// line answers one line of the host's. What is not of the protocol changes
// nothing.
func (g *Guest) line(line string, now uint64) []Effect {
	m, err := ParseHost(line)
	if err != nil {
		return nil
	}
	switch m := m.(type) {
	case HostHello:
		g.version = min(m.Version, Version)
	case Ping:
		out := []Effect{Hello{Version: Version, Speaker: "guestagent", BootID: g.Boot}}
		for _, s := range g.stages {
			out = g.say(out, s)
		}
		if g.unhealthy {
			out = g.say(out, Unhealthy{})
		}
		if g.state == Ended {
			out = g.say(out, g.last)
		}
		return append(out, Pong(m))
	case Challenge:
		return []Effect{Sign(m)}
	case PowerOff:
		return g.powerOff(now)
	}
	return nil
}

// say adds a message if the host's version has it.
func (g *Guest) say(out []Effect, m Message) []Effect {
	if since(m) > g.version {
		return out
	}
	return append(out, m)
}

// powerOff passes the request on, once for lines that come twice.
func (g *Guest) powerOff(now uint64) []Effect {
	switch {
	case g.state == Starting:
		g.early = true // PID 1 is guestinit yet, which hears nothing
	case g.state == Ended:
	case g.stoppedAt == 0 || now-g.stoppedAt >= stopAgain:
		g.stoppedAt = max(now, 1)
		return []Effect{Stop{}, Bye{}}
	}
	return []Effect{Bye{}}
}

// pass takes down a stage, the first time, and says so.
func (g *Guest) pass(out []Effect, name string, now uint64) []Effect {
	for _, s := range g.stages {
		if s.Name == name {
			return out
		}
	}
	s := Stage{Name: name, Millis: now}
	if len(g.stages) < maxGuestStage {
		g.stages = append(g.stages, s)
	}
	return g.say(out, s)
}

// HandedOver says that the workload runs: PID 1 became the root's init, or
// guestinit started the program, the first time or again.
func (g *Guest) HandedOver(now uint64) (out []Effect) {
	if g.state == Ended {
		return nil
	}
	g.stopping = false
	if g.state != Starting {
		return g.healthy(now) // a new run begins well, and has no watchdog yet
	}
	g.state = Running
	out = g.pass(out, StageRunning, now)
	if !g.AtNotify {
		g.state = Ready
		out = g.pass(out, StageReady, now)
	}
	if g.early {
		out = append(out, g.powerOff(now)[0])
	}
	return out
}

// Exited says that the program ended and may be run again.
func (g *Guest) Exited() { g.every, g.stopping = 0, true }

// Done says that it is not run again and the guest powers off.
func (g *Guest) Done(status uint8) []Effect {
	if g.state == Ended {
		return nil
	}
	return append(g.end(Exit{status}), Bye{})
}

// Failed says that guestinit gives up, with a code of its own, and powers off.
func (g *Guest) Failed(code string, now uint64) []Effect {
	if g.state == Ended {
		return nil
	}
	return g.end(Fail{code, now})
}

func (g *Guest) end(last Message) []Effect {
	g.Exited()
	g.state, g.last = Ended, last
	return g.say(nil, last)
}

// Notified takes what the workload said on its notification socket.
func (g *Guest) Notified(n workload.Notification, now uint64) (out []Effect) {
	if g.state == Ended {
		return nil
	}
	if n.Status != nil {
		g.status = *n.Status
	}
	if n.Watchdog != nil {
		g.every = uint64(*n.Watchdog / time.Millisecond)
		g.due = now + g.every
	}
	if n.Stopping {
		g.stopping = true
	}
	if n.Ready && g.state == Running {
		g.state = Ready
		out = g.pass(out, StageReady, now)
	}
	switch {
	case n.Trouble:
		out = append(out, g.bark()...)
	case n.Alive:
		out = append(out, g.healthy(now)...)
	}
	return out
}

// bark tells of a workload that missed its watchdog's time, or has it run again.
func (g *Guest) bark() []Effect {
	if g.Supervised {
		g.every = 0 // the new run says its own
		return []Effect{Restart{}}
	}
	if g.unhealthy {
		return nil
	}
	g.unhealthy = true
	return g.say(nil, Unhealthy{})
}

func (g *Guest) healthy(now uint64) []Effect {
	g.due = now + g.every
	if !g.unhealthy {
		return nil
	}
	g.unhealthy = false
	return g.say(nil, Healthy{})
}
