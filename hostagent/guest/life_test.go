package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
)

// inRoom is a fleet whose QEMUs are the room's machines, with one guest g.
func inRoom(t *testing.T, r *room, records Records, change func(*Options)) (*Fleet, *Guest) {
	t.Helper()
	// Not written here: a program that any forked child still has open for writing
	// can't be run ("text file busy"), and tests beside this one fork.
	qemu, err := filepath.Abs("testdata/qemu")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Store: records, Launcher: r, Platform: host{}, Hub: NewHub(), Log: slog.New(slog.DiscardHandler),
		QEMU: qemu, Runtime: r.runtime, ReadyTimeout: 30 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	f, err := NewFleet(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	g, err := f.Get("g")
	if err != nil {
		t.Fatal(err)
	}
	return f, g
}

// kept is a store with one guest g in it.
func kept(t *testing.T, rec *store.Guest) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	rec.Image, rec.Disks = "boot.seimg", []store.Disk{{File: "root.img", Serial: "root"}}
	keep(t, st, rec)
	return st
}

// keep gives a store a guest with the files that hostagent opens for QEMU.
func keep(t *testing.T, st *store.Store, rec *store.Guest) {
	t.Helper()
	dir := st.Dir(rec.Name)
	err := errors.Join(os.MkdirAll(dir, 0o700), st.Save(rec))
	for _, name := range []string{"boot.seimg", "root.img"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// becomes waits until the guest is in one of some states.
func becomes(t *testing.T, g *Guest, states ...State) store.Guest {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if rec := g.Snapshot(); slices.Contains(states, State(rec.State)) {
			return rec
		}
	}
	rec := g.Snapshot()
	t.Fatalf("guest is %+v, failure %+v, wants %v", rec, rec.Failure, states)
	return store.Guest{}
}

// rebooted waits until a guest has.
func rebooted(t *testing.T, g *Guest, has func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !has(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("guest has not rebooted: %+v", g.Snapshot())
		}
	}
}

// A guest's whole life.
func TestLife(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	f, g := inRoom(t, r, kept(t, stored("g", Created, 0)), nil)
	events := f.Hub.Subscribe()
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context(), ""); fault.As(err).Code != fault.WrongState {
		t.Errorf("second start: %v", err)
	}
	rec := becomes(t, g, Ready)
	var stages []string
	for _, s := range rec.Stages {
		stages = append(stages, s.Name+"/"+s.By)
	}
	if got := strings.Join(stages, " "); got != "starting/host unpacked/host kernel/guest unlocked/guest mounted/guest handover/guest secrets/guest running/guest ready/guest" {
		t.Errorf("stages %s", got)
	}
	if err := f.Delete(t.Context(), "g"); fault.As(err).Code != fault.WrongState {
		t.Errorf("delete of a ready guest: %v", err)
	}
	for i := range byte(3) {
		report, err := g.Challenge(t.Context(), [32]byte{i})
		if want := fmt.Sprintf("report over %c", i); err != nil || !bytes.HasPrefix(report, []byte(want)) {
			t.Errorf("challenge: %q %v", report, err)
		}
	}
	if err := g.Stop(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if rec := g.Snapshot(); State(rec.State) != Stopped || rec.Process != nil || r.machines[0].quits != 0 {
		t.Errorf("after stop: %+v", rec)
	}
	if _, err := os.Stat(f.runDir("g")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runtime folder: %v", err)
	}
	if err := f.Delete(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	var told []string
	for {
		e, err := events.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(told); n == 0 || told[n-1] != e.Guest.State {
			told = append(told, e.Guest.State)
		}
		if e.Deleted {
			break
		}
	}
	if got := strings.Join(told, " "); got != "starting running ready stopping stopped" {
		t.Errorf("events told %s", got)
	}
}

// Each way that a start or a run can end.
func TestEnds(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("boot guest: %w", &platform.RefusedError{Command: 0x301, RC: 0x108, Words: "header integrity"})
	cases := []struct {
		name   string
		guest  func(*machine, string)
		change func(*Options)
		want   State
		code   fault.Code
		words  string
	}{
		{"guest gives up", then("guest-shutdown", "STAGE kernel 5", "FAIL G108 9"), nil, Failed, "G108", "root disk does not hold"},
		{"guest gives up but stays", says("FAIL G999 9"), nil, Failed, "G999", "does not know"},
		{"guest ends early", then("guest-shutdown", "STAGE kernel 5"), nil, Failed, fault.EndedEarly, "last words of the console"},
		{"guest reboots early", then("guest-reset", "STAGE kernel 5"), nil, Failed, fault.EndedEarly, ""},
		{"guest panics", then("guest-panic"), nil, Failed, fault.GuestPanic, "0x11"},
		{"QEMU dies", func(m *machine, _ string) { m.vanish() }, nil, Failed, fault.QEMUDied, ""},
		{"guest powers itself off", then("guest-shutdown", "STAGE ready 9"), nil, Stopped, "", ""},
		{"guest hangs", says("STAGE kernel 5"), func(o *Options) { o.ReadyTimeout = 300 * time.Millisecond }, Failed, fault.NotReady, "last words of the console"},
		{"ultravisor refuses", bootsUp, func(o *Options) { o.Platform = host{boot: func() error { return refused }} }, Failed, fault.Refused, "header integrity"},
		{"stand-in fails", bootsUp, func(o *Options) { o.Platform = host{boot: func() error { return errors.New("no gdb") }} }, Failed, fault.Launch, "no gdb"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, c.guest)
			st := kept(t, stored("g", Stopped, 0))
			if err := os.WriteFile(filepath.Join(st.Dir("g"), consoleFile), []byte("x\nlast words of the console\x1b\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, g := inRoom(t, r, st, c.change)
			if err := g.Start(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			rec := becomes(t, g, Failed, Stopped)
			var failure store.Failure
			if rec.Failure != nil {
				failure = *rec.Failure
			}
			if State(rec.State) != c.want || failure.Code != string(c.code) || !strings.Contains(failure.Message, c.words) || strings.Contains(failure.Message, "\x1b") {
				t.Errorf("guest is %s: %+v", rec.State, failure)
			}
			// At once, although the ended run may still clear up.
			if err := f.Delete(t.Context(), "g"); err != nil {
				t.Errorf("delete: %v", err)
			}
			if n := len(r.alive()); n > 0 {
				t.Errorf("%d QEMUs are left", n)
			}
		})
	}
}

// A reboot of a ready guest is a fresh QEMU and the same checks again.
func TestReboot(t *testing.T) {
	t.Parallel()
	r := newRoom(t, then("guest-reset", "STAGE ready 9"), then("guest-reset", "STAGE ready 9"), bootsUp)
	boots := make(chan struct{}, 10)
	_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), func(o *Options) {
		o.Platform = host{boot: func() error { boots <- struct{}{}; return nil }}
	})
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	rebooted(t, g, func() bool { return len(boots) == 3 })
	becomes(t, g, Ready)
	if _, err := g.Challenge(t.Context(), [32]byte{}); err != nil {
		t.Errorf("challenge after reboots: %v", err)
	}
	if err := g.Kill(t.Context()); err != nil || State(g.Snapshot().State) != Stopped || r.count() != 3 {
		t.Errorf("kill: %v, %+v, %d QEMUs", err, g.Snapshot(), r.count())
	}
}

// A guest that does not power off is ended by QEMU; a QEMU that does not end is
// killed. Stopping a guest that is not ready waits for nothing.
func TestStopByForce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		guest func(*machine, string)
		stuck bool
		state State // to stop in
		quits int
	}{
		{"deaf guest", says("STAGE ready 9"), false, Ready, 1},
		{"deaf guest, stuck QEMU", says("STAGE ready 9"), true, Ready, 1},
		{"booting guest", says("STAGE kernel 9"), false, Running, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, c.guest)
			r.stuck = c.stuck
			_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), nil)
			if err := g.Start(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			becomes(t, g, c.state)
			if err := g.Stop(t.Context(), 20*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			m := r.machines[0]
			m.mu.Lock()
			defer m.mu.Unlock()
			if rec := g.Snapshot(); State(rec.State) != Stopped || len(r.alive()) > 0 || m.quits != c.quits {
				t.Errorf("guest is %+v, %d quits", rec, m.quits)
			}
		})
	}
}

// A start can be stopped while the ultravisor decides.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	block, begun := make(chan struct{}), make(chan struct{})
	_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), func(o *Options) {
		o.Platform = host{boot: func() error { close(begun); <-block; return context.Canceled }}
	})
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	<-begun
	time.AfterFunc(50*time.Millisecond, func() { close(block) })
	if err := g.Stop(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if rec := g.Snapshot(); State(rec.State) != Stopped || len(r.alive()) > 0 {
		t.Errorf("guest is %+v", rec)
	}
}

// A guest that does not answer, and one that answers too late.
func TestChallengeWithoutAnswer(t *testing.T) {
	t.Parallel()
	r := newRoom(t, says("STAGE ready 9", "REPORT bm9ib2R5IGFza2Vk")) // unasked
	_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), nil)
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if report, err := g.Challenge(ctx, [32]byte{}); fault.As(err).Code != fault.NoAnswer {
		t.Errorf("%q %v", report, err)
	}
}

// The time that a guest waits for its owner's secrets is not its own. Then it has
// all of its time to become ready, once.
func TestHold(t *testing.T) {
	t.Parallel()
	_, g := inRoom(t, newRoom(t, bootsUp), kept(t, stored("g", Stopped, 0)), nil)
	l := newLife(g)
	l.deadline = time.NewTimer(time.Hour)
	for _, step := range []struct {
		stage string
		runs  bool // the time to become ready
	}{
		{"kernel", true}, {"secrets", false}, {"secrets", false}, {"running", true},
		{"secrets", true}, {"running", true}, // a guest that says so again has no more time
	} {
		l.hold(step.stage)
		if err := g.hear(step.stage); err != nil {
			t.Fatal(err)
		}
		if runs := l.deadline.Stop(); runs != step.runs {
			t.Errorf("after stage %s its time runs: %v", step.stage, runs)
		} else if runs {
			l.deadline.Reset(time.Hour)
		}
	}
	next := newLife(g) // of a hostagent that takes over a guest which waits
	next.deadline = time.NewTimer(time.Hour)
	next.hold("secrets")
	if next.held {
		t.Error("a guest that runs is held")
	}
}
