package supervise

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/secexec/secexec/sealed"
)

// script drives a machine over a clock of its own.
type script struct {
	t   *testing.T
	m   *Machine
	now time.Time
}

func newScript(t *testing.T, w sealed.Workload, chance float64) *script {
	if w.StopSeconds == 0 {
		w.StopSeconds = 10
	}
	now := time.Unix(1e9, 0)
	s := &script{t, NewMachine(&w, now, func() float64 { return chance }), now}
	s.want(s.m.Tick(now), Start)
	s.m.Started(now)
	return s
}

func (s *script) want(got, want Action) {
	s.t.Helper()
	if got != want {
		s.t.Fatalf("after %s: action %d, wants %d", s.now.Sub(time.Unix(1e9, 0)), got, want)
	}
}

// wait lets the clock go to the deadline and returns how long that was.
func (s *script) wait(want Action) time.Duration {
	s.t.Helper()
	due, ok := s.m.Deadline()
	if !ok {
		s.t.Fatal("nothing is due")
	}
	took := due.Sub(s.now)
	s.want(s.m.Tick(due.Add(-1)), Nothing)
	s.now = due
	s.want(s.m.Tick(due), want)
	return took
}

func (s *script) runs(d time.Duration) { s.now = s.now.Add(d) }

func TestPolicies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy sealed.RestartPolicy
		status uint8
		again  bool
	}{
		{sealed.RestartNever, 0, false}, {sealed.RestartNever, 1, false}, {sealed.RestartOnFailure, 0, false},
		{sealed.RestartOnFailure, 1, true}, {sealed.RestartOnFailure, 137, true}, {sealed.RestartAlways, 0, true}, {sealed.RestartAlways, 1, true},
	} {
		s := newScript(t, sealed.Workload{Restart: c.policy}, 0.5)
		if want := map[bool]Action{true: Nothing, false: PowerOff}[c.again]; s.m.Exited(c.status, s.now) != want || s.m.Status != c.status {
			t.Errorf("%+v is not so: status %d", c, s.m.Status)
		}
	}
}

// Pauses double up to a minute, differ by chance, and begin anew after a run of
// ten seconds.
func TestBackOff(t *testing.T) {
	t.Parallel()
	s := newScript(t, sealed.Workload{Restart: sealed.RestartAlways}, 0.5)
	var got []time.Duration
	for i := range 13 {
		if i == 12 {
			s.runs(settled)
		}
		s.want(s.m.Exited(1, s.now), Nothing)
		got = append(got, s.wait(Start).Round(time.Millisecond))
		s.m.Started(s.now)
	}
	ms := time.Millisecond
	want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 51200 * ms, time.Minute, time.Minute, 100 * ms}
	if !slices.Equal(got, want) || s.m.Restarts() != 13 {
		t.Errorf("pauses %v, wants %v; %d restarts", got, want, s.m.Restarts())
	}
	for chance, want := range map[float64]time.Duration{0: 75 * ms, 0.999999: 125 * ms} {
		s := newScript(t, sealed.Workload{Restart: sealed.RestartAlways}, chance)
		s.want(s.m.Exited(0, s.now), Nothing)
		if got := s.wait(Start).Round(ms); got != want {
			t.Errorf("chance %v pauses %v, wants %v", chance, got, want)
		}
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	w := sealed.Workload{Restart: sealed.RestartOnFailure, MaxRestarts: 2, WindowSecs: 60}
	s := newScript(t, w, 0.5)
	for range 2 {
		s.want(s.m.Exited(3, s.now), Nothing)
		s.wait(Start)
		s.m.Started(s.now)
	}
	s.want(s.m.Exited(3, s.now), PowerOff)

	s = newScript(t, w, 0.5)
	for range 10 { // one in each half of the window is in the budget for ever
		s.runs(31 * time.Second)
		s.want(s.m.Exited(3, s.now), Nothing)
		s.wait(Start)
		s.m.Started(s.now)
	}

	// A program that can't be started at all spends the budget, too.
	s = newScript(t, w, 0.5)
	s.want(s.m.Exited(1, s.now), Nothing)
	s.wait(Start)
	s.want(s.m.Exited(127, s.now), Nothing)
	s.wait(Start)
	s.want(s.m.Exited(127, s.now), PowerOff)
	if s.m.Status != 127 {
		t.Errorf("status %d", s.m.Status)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	s := newScript(t, sealed.Workload{Restart: sealed.RestartAlways, StopSeconds: 7}, 0.5)
	s.want(s.m.AskStop(s.now), Stop)
	s.want(s.m.AskStop(s.now), Nothing) // once
	s.want(s.m.AskRestart(s.now), Nothing)
	s.runs(time.Second)
	s.want(s.m.Exited(0, s.now), PowerOff)
	s.want(s.m.AskRestart(s.now), Nothing)

	s = newScript(t, sealed.Workload{Restart: sealed.RestartAlways, StopSeconds: 7}, 0.5)
	s.want(s.m.AskStop(s.now), Stop)
	if took := s.wait(Kill); took != 7*time.Second {
		t.Errorf("killed after %v", took)
	}
	s.want(s.m.AskStop(s.now), Nothing)
	s.want(s.m.Exited(137, s.now), PowerOff)

	// What not even a kill ends must not keep the guest.
	s = newScript(t, sealed.Workload{Restart: sealed.RestartAlways}, 0.5)
	s.want(s.m.AskRestart(s.now), Stop)
	s.wait(Kill)
	s.wait(PowerOff)

	s = newScript(t, sealed.Workload{Restart: sealed.RestartAlways}, 0.5)
	s.want(s.m.Exited(9, s.now), Nothing)
	s.want(s.m.AskStop(s.now), PowerOff) // between two runs
	if s.m.Status != 9 {
		t.Errorf("status %d", s.m.Status)
	}
}

func TestRestartWhenAsked(t *testing.T) {
	t.Parallel()
	s := newScript(t, sealed.Workload{Restart: sealed.RestartNever, MaxRestarts: 1, WindowSecs: 60}, 0.5)
	for range 3 { // neither policy nor budget counts
		s.want(s.m.AskRestart(s.now), Stop)
		s.want(s.m.AskRestart(s.now), Nothing)
		s.want(s.m.Exited(143, s.now), Start)
		s.m.Started(s.now)
	}
	s.want(s.m.AskRestart(s.now), Stop)
	s.wait(Kill)
	s.want(s.m.Exited(137, s.now), Start)
	s.m.Started(s.now)
	s.want(s.m.AskRestart(s.now), Stop)
	s.want(s.m.AskStop(s.now), Nothing) // the stop is under way, now for good
	s.want(s.m.Exited(0, s.now), PowerOff)

	s = newScript(t, sealed.Workload{Restart: sealed.RestartAlways}, 0.5)
	s.want(s.m.Exited(1, s.now), Nothing)
	s.want(s.m.AskRestart(s.now), Start) // the pause is cut short
}

// Whatever happens in whatever order, a program is started only when none runs,
// a stop ends in a power-off within its time, and nothing is due after it.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := sealed.Workload{Restart: sealed.RestartPolicy(r.IntN(3)), StopSeconds: 5}
		if r.IntN(2) == 0 {
			w.MaxRestarts, w.WindowSecs = 3, 60
		}
		now, alive, off := time.Unix(1e9, 0), false, false
		var asked time.Time
		m := NewMachine(&w, now, r.Float64)
		var do func(Action)
		do = func(a Action) {
			switch a {
			case Start:
				if alive || off {
					t.Fatalf("seed %d: a start beside another or after the end", seed)
				}
				alive = true
				m.Started(now)
			case Stop, Kill:
				if !alive {
					t.Fatalf("seed %d: action %d without a program", seed, a)
				}
			case PowerOff:
				if alive || off {
					t.Fatalf("seed %d: power-off with a program, or twice", seed)
				}
				off = true
			}
			if a == Kill {
				alive = false
				do(m.Exited(137, now))
			}
		}
		for range 200 {
			now = now.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
			do(m.Tick(now))
			switch n := r.IntN(12); {
			case n < 4 && alive:
				alive = false
				do(m.Exited(uint8(r.IntN(3)), now))
			case n == 4:
				do(m.AskRestart(now))
			case n == 5 && r.IntN(10) == 0 && !off:
				if asked.IsZero() {
					asked = now
				}
				do(m.AskStop(now))
			}
			if !asked.IsZero() && !off && now.Sub(asked) > 9*time.Second {
				t.Fatalf("seed %d: asked to stop %v ago", seed, now.Sub(asked))
			}
		}
		if _, due := m.Deadline(); off && due {
			t.Fatalf("seed %d: something is due after the power-off", seed)
		}
	}
}
