package guest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

// process is a fake QEMU process.
type process struct {
	id     launch.Identity
	once   sync.Once
	exited chan struct{}
}

func newProcess(pid int) *process {
	return &process{id: launch.Identity{PID: pid, BootID: "b"}, exited: make(chan struct{})}
}

func (p *process) Identity() launch.Identity  { return p.id }
func (p *process) Exited() <-chan struct{}    { return p.exited }
func (p *process) Exit() launch.Exit          { return launch.Exit{} }
func (p *process) Kill(context.Context) error { p.once.Do(func() { close(p.exited) }); return nil }

// launcher is a fake that knows which processes live.
type launcher struct {
	alive   map[int]*process
	orphans []*process
}

func (l *launcher) Start(context.Context, launch.Spec) (launch.Process, error) {
	return nil, errors.New("this launcher starts nothing")
}

func (l *launcher) Adopt(_ context.Context, id launch.Identity) (launch.Process, error) {
	if p := l.alive[id.PID]; p != nil {
		return p, nil
	}
	return nil, launch.ErrGone
}

func (l *launcher) FindOrphans(context.Context, string) (out []launch.Process, err error) {
	for _, p := range l.orphans {
		out = append(out, p)
	}
	return out, nil
}

// host is a fake platform.
type host struct {
	platform.Emulated
	boot func() error // what the ultravisor decides, nil: accepts
}

func (host) HostKeyHashes() ([][32]byte, error) { return nil, platform.ErrHashesUnknown }
func (host) Check(context.Context) error        { return nil }
func (host) Configure(c *qemu.Config)           { c.Accel, c.CPU = "tcg", "max" }

func (h host) Boot(context.Context, platform.BootSpec) error {
	if h.boot == nil {
		return nil
	}
	return h.boot()
}

func fleet(t *testing.T, l launch.Launcher, recs ...*store.Guest) *Fleet {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	for _, rec := range recs {
		if err := errors.Join(os.MkdirAll(st.Dir(rec.Name), 0o700), st.Save(rec)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := NewFleet(t.Context(), Options{
		Store: st, Launcher: l, Platform: host{}, Hub: NewHub(), Log: slog.New(slog.DiscardHandler),
		QEMU: filepath.Join(t.TempDir(), "no-qemu"), Runtime: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func stored(name string, state State, pid int) *store.Guest {
	g := &store.Guest{Name: name, UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", State: string(state), MemoryMiB: 256, CPUs: 1}
	if pid != 0 {
		g.Process = &launch.Identity{PID: pid, BootID: "b"}
	}
	return g
}

// What a new hostagent makes of each state that it finds.
func TestSettle(t *testing.T) {
	t.Parallel()
	recorded, unrecorded := newProcess(7), newProcess(8)
	cases := []struct {
		name string
		rec  *store.Guest
		l    *launcher
		want State
		code fault.Code
		ends []*process
	}{
		{"created", stored("g", Created, 0), &launcher{}, Created, "", nil},
		{"stopped", stored("g", Stopped, 0), &launcher{}, Stopped, "", nil},
		{"killed before the launch", stored("g", Starting, 0), &launcher{}, Failed, fault.Interrupted, nil},
		{"killed between launch and record", stored("g", Starting, 0), &launcher{orphans: []*process{unrecorded}}, Failed, fault.Interrupted, []*process{unrecorded}},
		{"killed after the record", stored("g", Starting, 7), &launcher{alive: map[int]*process{7: recorded}}, Failed, fault.Interrupted, []*process{recorded}},
		{"running, gone meanwhile", stored("g", Running, 9), &launcher{}, Failed, fault.QEMUDied, nil},
		{"ready, gone meanwhile", stored("g", Ready, 9), &launcher{}, Failed, fault.QEMUDied, nil},
		{"ready, without a process on record", stored("g", Ready, 0), &launcher{}, Failed, fault.QEMUDied, nil},
		{"stopping, gone meanwhile", stored("g", Stopping, 9), &launcher{}, Stopped, "", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fleet(t, c.l, c.rec)
			g, err := f.Get("g")
			if err != nil {
				t.Fatal(err)
			}
			rec := g.Snapshot()
			var code fault.Code
			if rec.Failure != nil {
				code = fault.Code(rec.Failure.Code)
			}
			if State(rec.State) != c.want || code != c.code || c.want != State(c.rec.State) && rec.Process != nil {
				t.Errorf("%s becomes %s, %s, process %v; wants %s, %s", c.rec.State, rec.State, code, rec.Process, c.want, c.code)
			}
			for _, p := range c.ends {
				select {
				case <-p.exited:
				default:
					t.Errorf("process %d still runs", p.id.PID)
				}
			}
		})
	}
}

// A start that fails says why, and can be tried again; calls in a wrong state
// change nothing.
func TestCallsInEachState(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{}, stored("g", Stopped, 0))
	g, err := f.Get("g")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Start(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if l := g.current(); l != nil {
			<-l.done
		}
		if rec := g.Snapshot(); State(rec.State) != Failed || rec.Failure.Code != string(fault.QEMU) {
			t.Errorf("start without QEMU: %+v", rec)
		}
	}
	for name, err := range map[string]error{
		"stop": g.Stop(t.Context(), 0), "kill": g.Kill(t.Context()),
		"challenge": func() error { _, err := g.Challenge(t.Context(), [32]byte{}); return err }(),
	} {
		if fault.As(err).Code != fault.WrongState {
			t.Errorf("%s of a failed guest: %v", name, err)
		}
	}
	if err := f.Delete(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context(), ""); fault.As(err).Code != fault.WrongState {
		t.Errorf("start of a deleted guest: %v", err)
	}
	if err := f.Delete(t.Context(), "g"); fault.As(err).Code != fault.NoGuest {
		t.Errorf("second delete: %v", err)
	}
}

// A Create that fails leaves nothing; a name is taken once.
func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{}, stored("g", Stopped, 0))
	for name, c := range map[string]struct {
		r    Request
		want fault.Code
	}{
		"relative path": {Request{Bundle: "b"}, fault.BadRequest},
		"no bundle":     {Request{Bundle: t.TempDir()}, fault.Bundle},
		"no folder":     {Request{Bundle: "/absent"}, fault.Bundle},
	} {
		if _, err := f.Create(t.Context(), c.r); fault.As(err).Code != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.List()); n != 1 {
		t.Errorf("%d guests", n)
	}
}
