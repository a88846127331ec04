package guest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/store"
)

// What follows each way that a run can end, by each policy.
func TestEnded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d ...time.Duration) (out []time.Time) {
		for _, d := range d {
			out = append(out, now.Add(-d))
		}
		return out
	}
	always, onFailure := &store.Restart{Policy: RestartAlways, Limit: 3, WindowS: 60}, &store.Restart{Policy: RestartOnFailure, Limit: 3, WindowS: 60}
	for _, c := range []struct {
		name   string
		policy *store.Restart
		before []time.Time
		code   fault.Code // "": ended in order
		told   bool
		want   State
		is     fault.Code
		counts int
		after  time.Duration
	}{
		{"no policy, order", nil, nil, "", false, Stopped, "", 0, 0},
		{"no policy, failure", nil, nil, fault.QEMUDied, false, Failed, fault.QEMUDied, 0, 0},
		{"on failure, power-off", onFailure, nil, "", false, Stopped, "", 0, 0},
		{"on failure, panic", onFailure, nil, fault.GuestPanic, false, Waiting, fault.GuestPanic, 1, firstDelay},
		{"on failure, told to end", onFailure, nil, fault.QEMUDied, true, Failed, fault.QEMUDied, 0, 0},
		{"always, power-off", always, nil, "", false, Waiting, "", 1, firstDelay},
		{"always, stopped", always, nil, "", true, Stopped, "", 0, 0},
		{"always, refused by the ultravisor", always, nil, fault.Refused, false, Failed, fault.Refused, 0, 0},
		{"always, wrong disk", always, nil, "G108", false, Failed, "G108", 0, 0},
		{"always, slow boot", always, nil, "G113", false, Waiting, "G113", 1, firstDelay},
		{"second", always, ago(10 * time.Second), fault.QEMUDied, false, Waiting, fault.QEMUDied, 2, 2 * firstDelay},
		{"third", always, ago(20*time.Second, 10*time.Second), fault.QEMUDied, false, Waiting, fault.QEMUDied, 3, 4 * firstDelay},
		{"spent", always, ago(30*time.Second, 20*time.Second, 10*time.Second), fault.QEMUDied, false, Failed, fault.RestartsSpent, 3, 0},
		{"spent by power-offs", always, ago(30*time.Second, 20*time.Second, 10*time.Second), "", false, Failed, fault.RestartsSpent, 3, 0},
		{"spent, but told to end", always, ago(30*time.Second, 20*time.Second, 10*time.Second), "", true, Stopped, "", 3, 0},
		{"one is long ago", always, ago(61*time.Second, 20*time.Second, 10*time.Second), fault.QEMUDied, false, Waiting, fault.QEMUDied, 3, 4 * firstDelay},
		{"all are long ago", always, ago(90*time.Second, 61*time.Second, time.Minute), fault.QEMUDied, false, Waiting, fault.QEMUDied, 1, firstDelay},
		{"clock set back", always, ago(-time.Hour, -2*time.Hour), fault.QEMUDied, false, Waiting, fault.QEMUDied, 3, 4 * firstDelay},
		{"clock set back, spent", always, ago(-time.Hour, -2*time.Hour, -3*time.Hour), fault.QEMUDied, false, Failed, fault.RestartsSpent, 3, 0},
	} {
		for _, spread := range []float64{0, 0.5, 1} {
			rec := stored("g", Ready, 7)
			rec.Restart, rec.Restarts = c.policy, slices.Clone(c.before)
			var f *fault.Error
			if c.code != "" {
				f = fault.New(c.code, "it went wrong")
			}
			ended(rec, f, c.told, now, spread)
			var is fault.Code
			if rec.Failure != nil {
				is = fault.Code(rec.Failure.Code)
			}
			var at time.Time
			if c.after != 0 {
				at = now.Add(c.after/2 + time.Duration(spread*float64(c.after/2)))
			}
			if State(rec.State) != c.want || is != c.is || len(rec.Restarts) != c.counts || !rec.RestartAt.Equal(at) || rec.Process != nil {
				t.Errorf("%s: %s %s, %d restarts, next %v; wants %s %s, %d, %v", c.name, rec.State, is, len(rec.Restarts), rec.RestartAt, c.want, c.is, c.counts, at)
			}
			if is == fault.RestartsSpent && !strings.Contains(rec.Failure.Message, "restarted 3 times within 1m0s") {
				t.Errorf("%s: %s", c.name, rec.Failure.Message)
			}
		}
	}
	if d := delay(100, 1); d != maxDelay {
		t.Errorf("delay after 100 restarts: %s", d)
	}
}

func TestRestartPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy        string
		limit, window uint32
		want          *store.Restart
		ok            bool
	}{
		{"", 0, 0, nil, true}, {"no", 0, 0, nil, true}, {"no", 1, 0, nil, false},
		{"always", 0, 0, &store.Restart{Policy: "always", Limit: 5, WindowS: 600}, true},
		{"on-failure", 1000, 604800, &store.Restart{Policy: "on-failure", Limit: 1000, WindowS: 604800}, true},
		{"always", 1001, 0, nil, false}, {"always", 0, 604801, nil, false}, {"Always", 0, 0, nil, false}, {"unless-stopped", 0, 0, nil, false},
	} {
		got, err := RestartPolicy(c.policy, c.limit, c.window)
		if (err == nil) != c.ok || (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s %d %d: %+v %v", c.policy, c.limit, c.window, got, err)
		}
	}
}

// willing is a guest with a policy, in the store.
func willing(state State, policy string, limit uint32) *store.Guest {
	rec := stored("g", state, 0)
	rec.Restart = &store.Restart{Policy: policy, Limit: limit, WindowS: 600}
	return rec
}

// A guest that fails is started again until its restarts are spent; a call
// begins to count anew.
func TestRestartsUntilSpent(t *testing.T) {
	t.Parallel()
	r := newRoom(t, then("guest-panic", "STAGE ready 9"), then("guest-panic", "STAGE ready 9"), bootsUp)
	st := kept(t, willing(Stopped, RestartOnFailure, 1))
	_, g := inRoom(t, r, st, nil)
	if err := g.Start(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	rec := becomes(t, g, Waiting)
	if rec.Failure == nil || rec.Failure.Code != string(fault.GuestPanic) || rec.RestartAt.IsZero() || len(rec.Restarts) != 1 {
		t.Errorf("waiting guest: %+v", rec)
	}
	rec = becomes(t, g, Failed)
	if rec.Failure.Code != string(fault.RestartsSpent) || r.count() != 2 || rec.StartedBy != "one" {
		t.Errorf("%+v after %d starts", rec, r.count())
	}
	if err := g.Start(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if rec := becomes(t, g, Ready); len(rec.Restarts) != 0 || rec.Failure != nil {
		t.Errorf("started by a call: %+v", rec)
	}
}

// A restart that waits is called off by stop, kill and rm, and started at once by
// start; each also when hostagent was started anew in between.
func TestRestartCalledOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(f *Fleet, g *Guest) error
		want State
	}{
		{"stop", func(_ *Fleet, g *Guest) error { return g.Stop(g.fleet.ctx, time.Minute) }, Stopped},
		{"kill", func(_ *Fleet, g *Guest) error { return g.Kill(g.fleet.ctx) }, Stopped},
		{"rm", func(f *Fleet, _ *Guest) error { return f.Delete(f.ctx, "g") }, deleted},
		{"start", func(_ *Fleet, g *Guest) error { return g.Start(g.fleet.ctx, "") }, Ready},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rec := willing(Waiting, RestartAlways, 5)
			rec.RestartAt, rec.Restarts = time.Now().Add(30*time.Second), []time.Time{time.Now()}
			rec.BootID = BootID()
			st := kept(t, rec)
			r := newRoom(t, bootsUp)
			f, g := inRoom(t, r, st, nil)
			if err := c.do(f, g); err != nil {
				t.Fatal(err)
			}
			becomes(t, g, c.want)
			if g.record().RestartAt != (time.Time{}) && c.want != deleted {
				t.Errorf("%+v", g.record())
			}
			if c.want == Ready {
				return
			}
			f.Close() // also the goroutine that waits ends
			if c.want == Stopped {
				if _, again := inRoom(t, r, st, nil); State(again.record().State) != Stopped {
					t.Errorf("after a restart of hostagent: %+v", again.record())
				}
			}
			if r.count() != 0 {
				t.Errorf("%d starts", r.count())
			}
		})
	}
}

// A waiting restart survives hostagent, whatever became of the clock.
func TestRestartSurvivesHostagent(t *testing.T) {
	t.Parallel()
	rec := willing(Waiting, RestartAlways, 5)
	rec.RestartAt, rec.Restarts = time.Now().Add(-time.Hour), []time.Time{time.Now()} // its time came meanwhile
	rec.BootID = BootID()
	r := newRoom(t, bootsUp)
	_, g := inRoom(t, r, kept(t, rec), nil)
	if got := becomes(t, g, Ready); len(got.Restarts) != 1 {
		t.Errorf("restarts are counted anew: %+v", got)
	}
}

// A guest with a policy whose node went down, or whose start was cut off, is
// started again; one without is told.
func TestSettleWithPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		state  State
		policy string
		boot   string
		want   State
		code   fault.Code
	}{
		{"node went down", Ready, "", "earlier", Failed, fault.NodeDown},
		{"node went down, policy", Ready, RestartOnFailure, "earlier", Waiting, fault.NodeDown},
		{"node went down in a start", Starting, "", "earlier", Failed, fault.NodeDown},
		{"node went down in a stop", Stopping, RestartAlways, "earlier", Stopped, ""},
		{"died meanwhile", Ready, RestartOnFailure, "this", Waiting, fault.QEMUDied},
		{"start cut off", Starting, RestartAlways, "this", Waiting, fault.Interrupted},
		{"stopped meanwhile", Stopping, RestartAlways, "this", Stopped, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rec := stored("g", c.state, 7)
			rec.BootID = c.boot
			if c.policy != "" {
				rec.Restart = &store.Restart{Policy: c.policy, Limit: 5, WindowS: 600}
			}
			_, g := inRoom(t, newRoom(t, bootsUp), kept(t, rec), func(o *Options) { o.Boot = "this" })
			got := g.record()
			var code fault.Code
			if got.Failure != nil {
				code = fault.Code(got.Failure.Code)
			}
			if State(got.State) != c.want || code != c.code {
				t.Errorf("%s %s, wants %s %s", got.State, code, c.want, c.code)
			}
		})
	}
}

// A process that may still run is not taken for a dead one, nor left alone.
type blind struct {
	*room
	tries atomic.Int32
	sees  int32 // from this try on
}

func (b *blind) Adopt(ctx context.Context, id launch.Identity) (launch.Process, error) {
	if b.tries.Add(1) < b.sees {
		return nil, errors.New("too many open files")
	}
	return b.room.Adopt(ctx, id)
}

func TestAdoptTriesAgain(t *testing.T) {
	t.Parallel()
	for sees, want := range map[int32]State{2: Ready, 99: Failed} {
		r := newRoom(t, bootsUp)
		l := &blind{room: r, sees: sees}
		rec := adoptable(t, r, Ready)
		_, g := inRoom(t, r, kept(t, rec), func(o *Options) { o.Launcher = l })
		if got := becomes(t, g, Ready, Failed); State(got.State) != want || want == Failed && len(r.alive()) > 0 {
			t.Errorf("seen at try %d: %s, %d QEMUs", sees, got.State, len(r.alive()))
		}
	}
}

// What a unit knows of its process's end is told.
func TestLost(t *testing.T) {
	t.Parallel()
	f := &Fleet{Options: Options{Boot: "this"}}
	rec := stored("g", Ready, 7)
	for _, c := range []struct {
		gone  error
		code  fault.Code
		words string
	}{
		{launch.ErrGone, fault.QEMUDied, "while no hostagent ran"},
		{&launch.EndedError{Exit: launch.Exit{Known: true, Code: 3}}, fault.QEMUDied, "while no hostagent ran: exit status 3"},
		{&launch.EndedError{Exit: launch.Exit{Known: true, OOM: true}}, fault.OutOfMemory, "for want of memory"},
	} {
		if failure, told := f.lost(rec, c.gone); told || failure.Code != c.code || !strings.HasSuffix(failure.Message, c.words) {
			t.Errorf("%v: %v", c.gone, failure)
		}
	}
}

// full is a state folder that can't be written, from when it is told.
type full struct {
	*store.Store
	full atomic.Bool
}

func (s *full) Save(g *store.Guest) error {
	if s.full.Load() {
		return &fs.PathError{Op: "write", Path: "guest.json", Err: syscall.ENOSPC}
	}
	return s.Store.Save(g)
}

// A full state folder: no start begins, but what runs goes on, can be stopped,
// and is shown as it is; once there is room again all is stored.
func TestStateFolderIsFull(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	s := &full{Store: kept(t, stored("g", Stopped, 0))}
	_, g := inRoom(t, r, s, nil)
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	s.full.Store(true)
	if err := g.Stop(t.Context(), time.Minute); err != nil || State(g.record().State) != Stopped || len(r.alive()) > 0 {
		t.Fatalf("stop: %v, %+v", err, g.record())
	}
	if err := g.Start(t.Context(), ""); err == nil || fault.As(err).Code != fault.Storage || State(g.record().State) != Stopped {
		t.Errorf("start: %v, %+v", err, g.record())
	}
	s.full.Store(false)
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	s.full.Store(true)
	if err := r.alive()[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec := becomes(t, g, Failed); rec.Failure.Code != string(fault.QEMUDied) {
		t.Errorf("%+v", rec)
	}
}

// Repeated calls with one id start a guest once, at the same time or later, also
// after hostagent was started anew.
func TestStartIsIdempotent(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	st := kept(t, stored("g", Stopped, 0))
	f, g := inRoom(t, r, st, nil)
	results := make(chan error)
	for range 8 {
		go func() { results <- g.Start(t.Context(), "id-1") }()
	}
	for range 8 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	becomes(t, g, Ready)
	f.Close()
	_, g = inRoom(t, r, st, nil)
	becomes(t, g, Ready)
	if err := g.Start(t.Context(), "id-1"); err != nil || r.count() != 1 {
		t.Errorf("repeated: %v, %d starts", err, r.count())
	}
	if err := g.Start(t.Context(), "id-2"); err == nil || fault.As(err).Code != fault.WrongState {
		t.Errorf("another: %v", err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context(), "id-1"); err != nil || State(g.record().State) != Stopped {
		t.Errorf("repeated after the end: %v, %+v", err, g.record())
	}
	if err := g.Start(t.Context(), "bad id"); err == nil || fault.As(err).Code != fault.BadRequest {
		t.Errorf("%v", err)
	}
}

// Stages count on through a clock that was set back or forwards.
func TestStagesAfterClockJump(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{-1000 * time.Hour, 1000 * time.Hour} {
		r := newRoom(t, bootsUp)
		rec := adoptable(t, r, Running)
		rec.Started = time.Now().Add(-jump)
		rec.Stages = []store.Stage{{Name: "starting", Millis: 5, By: store.ByHost}}
		_, g := inRoom(t, r, kept(t, rec), func(o *Options) { o.ReadyTimeout = time.Minute })
		last := int64(0)
		for _, s := range becomes(t, g, Ready).Stages {
			if s.Millis < last {
				t.Errorf("clock jumped by %s: stage %s after %d ms, the one before after %d", jump, s.Name, s.Millis, last)
			}
			last = s.Millis
		}
	}
}

// A folder at the place of the runtime folder with anything in it is in nobody's way.
func TestStaleRuntimeFolder(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	dir := filepath.Join(r.runtime, "guests", "g")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "x"), 0o700), os.WriteFile(filepath.Join(dir, qmpSocket), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), nil)
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
}
