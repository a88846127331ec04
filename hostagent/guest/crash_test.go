package guest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// moment is what a crash of hostagent would leave: the record as stored, and
// whether a QEMU runs.
type moment struct {
	rec   store.Guest
	alive bool
}

// recorder notes the moments before and after each Save.
type recorder struct {
	*store.Store
	r *room

	mu      sync.Mutex
	last    store.Guest
	moments []moment
}

func (s *recorder) Save(g *store.Guest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := len(s.r.alive()) > 0
	s.moments = append(s.moments, moment{s.last, alive})
	if err := s.Store.Save(g); err != nil {
		return err
	}
	s.last = *g.Clone()
	s.moments = append(s.moments, moment{s.last, alive})
	return nil
}

// hostagent is killed before and after each record that it stores, in the life of
// a guest that boots, reboots, is stopped, started again and killed. Each time the
// next hostagent finds a state that is true, leaves no QEMU that it does not
// supervise, and can start the guest again.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	reboots := then("guest-reset", "STAGE kernel 1", "STAGE ready 9")
	r := newRoom(t, reboots, bootsUp)
	rec := stored("g", Created, 0)
	s := &recorder{Store: kept(t, rec), r: r, last: *rec}
	_, g := inRoom(t, r, s, nil)
	for _, step := range []func() error{
		func() error { return g.Start(t.Context(), "") },
		func() error {
			rebooted(t, g, func() bool { return r.count() == 2 })
			becomes(t, g, Ready)
			return g.Stop(t.Context(), time.Minute)
		},
		func() error { return g.Start(t.Context(), "") },
		func() error { becomes(t, g, Ready); return g.Kill(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	moments := slices.Clone(s.moments)
	s.mu.Unlock()
	seen := make(map[string]bool)
	for i, m := range moments {
		name := fmt.Sprintf("%d %s process %v alive %v", i, m.rec.State, m.rec.Process != nil, m.alive)
		seen[fmt.Sprintf("%s %t %t", m.rec.State, m.rec.Process != nil, m.alive)] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			restartAt(t, m)
		})
	}
	// Among them are the narrow ones.
	for _, want := range []string{"starting false false", "starting false true", "starting true true", "running true true", "ready true true", "ready true false", "stopping true true", "stopping true false", "stopped false false"} {
		if !seen[want] {
			t.Errorf("no moment %q among %v", want, seen)
		}
	}
}

func restartAt(t *testing.T, m moment) {
	r := newRoom(t, bootsUp)
	rec := *m.rec.Clone()
	if m.alive {
		qemu, err := r.add("g")
		if err != nil {
			t.Fatal(err)
		}
		if rec.Process != nil {
			rec.Process = &qemu.id
		}
	}
	f, g := inRoom(t, r, kept(t, &rec), nil)
	var want State
	var code fault.Code
	switch was := State(m.rec.State); {
	case was == Starting:
		want, code = Failed, fault.Interrupted
	case was == Running && m.alive || was == Ready && m.alive:
		want = Ready
	case was == Running || was == Ready:
		want, code = Failed, fault.QEMUDied
	case was == Stopping:
		want = Stopped
	default:
		want = was
	}
	is := becomes(t, g, want)
	if is.Failure != nil && is.Failure.Code != string(code) || is.Failure == nil && code != "" {
		t.Errorf("failure %+v, wants %q", is.Failure, code)
	}
	if err := g.settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if supervised := State(is.State) == Ready; supervised != (len(r.alive()) == 1) {
		t.Errorf("guest is %s, %d QEMUs run", is.State, len(r.alive()))
	}
	if State(is.State) == Ready {
		if _, err := g.Challenge(t.Context(), [32]byte{1}); err != nil && fault.As(err).Code != fault.NoAnswer {
			t.Errorf("challenge: %v", err)
		}
		if err := g.Stop(t.Context(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatalf("start again: %v", err)
	}
	becomes(t, g, Ready)
	f.Close() // as SIGTERM does
	if len(r.alive()) != 1 {
		t.Error("the guest ended with hostagent")
	}
}

// A guest that became ready while no hostagent ran is given the time to say so,
// however long ago it was started.
func TestAdoptedAfterDeadline(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	rec := adoptable(t, r, Running)
	rec.Started = time.Now().Add(-time.Hour)
	_, g := inRoom(t, r, kept(t, rec), func(o *Options) { o.ReadyTimeout = time.Second })
	becomes(t, g, Ready)
}

// A guest whose QMP is gone is supervised nevertheless.
func TestAdoptedWithoutQMP(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	rec := adoptable(t, r, Ready)
	r.machines[0].mu.Lock()
	r.machines[0].sockets[0].Close()
	r.machines[0].sockets[1].Close()
	r.machines[0].mu.Unlock()
	_, g := inRoom(t, r, kept(t, rec), nil)
	if err := g.Kill(t.Context()); err != nil || State(g.Snapshot().State) != Stopped {
		t.Errorf("kill: %v, %+v", err, g.Snapshot())
	}
}

func adoptable(t *testing.T, r *room, state State) *store.Guest {
	t.Helper()
	m, err := r.add("g")
	if err != nil {
		t.Fatal(err)
	}
	rec := stored("g", state, os.Getpid())
	rec.Process = &m.id
	return rec
}
