package guest

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
)

// Files of a guest, in its state folder and its runtime folder.
const (
	consoleFile     = "console.log"
	qemuLog         = "qemu.log"
	qmpSocket       = "qmp.sock"
	readinessSocket = "readiness.sock"
)

// DefaultStop is how long a guest may take to power off.
const DefaultStop = 30 * time.Second

// Records is where guests are kept: a *store.Store.
type Records interface {
	Load() (guests []*store.Guest, problems []error, err error)
	Save(*store.Guest) error
	Delete(name string) error
	Dir(name string) string
}

// Options are what all guests of a hostagent share.
type Options struct {
	Store        Records
	Launcher     launch.Launcher
	Platform     platform.Platform
	Hub          *Hub
	Log          *slog.Logger
	QEMU         string        // program
	Runtime      string        // folder of sockets
	ReadyTimeout time.Duration // from start to ready
}

// Fleet is all guests of a hostagent.
type Fleet struct {
	Options
	ctx   context.Context // ends with Close; guests go on
	stop  context.CancelFunc
	lives sync.WaitGroup

	mu     sync.Mutex
	guests map[string]*Guest // nil: a Create is under way
}

// NewFleet loads all guests and takes over those that run.
func NewFleet(ctx context.Context, o Options) (*Fleet, error) {
	f := &Fleet{Options: o, guests: make(map[string]*Guest)}
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	recs, problems, err := o.Store.Load()
	if err != nil {
		return nil, err
	}
	for _, problem := range problems {
		f.Log.Error("load guests", "error", problem)
	}
	for _, rec := range recs {
		g := newGuest(f, *rec)
		f.guests[rec.Name] = g
		if State(rec.State).Live() {
			f.settle(ctx, g, rec)
		}
	}
	return f, nil
}

// settle decides what became of a guest that ran when the last hostagent ended.
func (f *Fleet) settle(ctx context.Context, g *Guest, rec *store.Guest) {
	l := newLife(g)
	var err error
	if rec.Process != nil {
		l.proc, err = f.Launcher.Adopt(ctx, *rec.Process)
	}
	switch {
	case State(rec.State) != Starting && rec.Process != nil && err == nil:
		g.setLife(l)
		f.lives.Go(func() { l.adopt(f.ctx) })
		f.Log.Info("guest taken over", "guest", rec.Name, "state", rec.State, "pid", rec.Process.PID)
		return
	case State(rec.State) == Stopping:
		err = g.move(Stopped, func(rec *store.Guest) { rec.Process = nil })
	case State(rec.State) == Starting:
		f.endOrphans(ctx, l, rec.UUID)
		err = g.fail(fault.New(fault.Interrupted, "hostagent ended while guest %s started", rec.Name))
	default:
		err = g.fail(fault.New(fault.QEMUDied, "QEMU of guest %s ended while no hostagent ran", rec.Name))
	}
	os.RemoveAll(f.runDir(rec.Name))
	if err != nil {
		f.Log.Error("settle guest", "guest", rec.Name, "error", err)
		return
	}
	f.Log.Warn("guest settled", "guest", rec.Name, "was", rec.State, "is", g.Snapshot().State)
}

// endOrphans kills what a start left that was cut off: the process on record,
// and any that was started but not recorded.
func (f *Fleet) endOrphans(ctx context.Context, l *life, uuid string) {
	l.killProcess()
	orphans, err := f.Launcher.FindOrphans(ctx, uuid)
	if err != nil {
		f.Log.Error("look for orphans", "error", err)
	}
	for _, p := range orphans {
		killing, cancel := context.WithTimeout(ctx, killTimeout)
		if err := p.Kill(killing); err != nil {
			f.Log.Error("kill orphan", "pid", p.Identity().PID, "error", err)
		}
		cancel()
	}
}

// Close lets go of all guests; they run on.
func (f *Fleet) Close() {
	f.stop()
	f.lives.Wait()
}

// Get returns a guest.
func (f *Fleet) Get(name string) (*Guest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.guests[name]; g != nil {
		return g, nil
	}
	return nil, fault.New(fault.NoGuest, "there is no guest %.80q", name)
}

// List returns all guests by name.
func (f *Fleet) List() []*Guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*Guest
	for _, name := range slices.Sorted(maps.Keys(f.guests)) {
		if g := f.guests[name]; g != nil {
			out = append(out, g)
		}
	}
	return out
}

// Create takes over a bundle. The guest exists when it returns nil, and not at
// all otherwise.
func (f *Fleet) Create(ctx context.Context, r Request) (*Guest, error) {
	if !filepath.IsAbs(r.Bundle) {
		return nil, fault.New(fault.BadRequest, "bundle %.200q is not an absolute path", r.Bundle)
	}
	if !requestForm.MatchString(r.ID) {
		return nil, fault.New(fault.BadRequest, "request id %.80q is not up to 64 characters of a-z, A-Z, 0-9 and '-'", r.ID)
	}
	b, err := bundle.Open(r.Bundle)
	if err != nil {
		return nil, fault.New(fault.Bundle, "%w", err)
	}
	defer b.Close()
	rec, err := record(&b.Manifest, r)
	if err != nil {
		return nil, err
	}
	if err := f.admit(b); err != nil {
		return nil, err
	}
	f.mu.Lock()
	there, taken := f.guests[rec.Name]
	if !taken {
		f.guests[rec.Name] = nil
	}
	f.mu.Unlock()
	if taken {
		if r.ID != "" && there != nil && there.Snapshot().Request == r.ID {
			return there, nil
		}
		return nil, fault.New(fault.NameTaken, "there is a guest %s already", rec.Name)
	}
	g := newGuest(f, *rec)
	err = f.populate(ctx, b, g)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		delete(f.guests, rec.Name)
		return nil, err
	}
	f.guests[rec.Name] = g
	return g, nil
}

// Delete removes a guest that does not run.
func (f *Fleet) Delete(ctx context.Context, name string) error {
	g, err := f.Get(name)
	if err != nil {
		return err
	}
	if err := g.settled(ctx); err != nil {
		return err
	}
	g.turn <- struct{}{} // so that no start begins meanwhile
	defer func() { <-g.turn }()
	rec := g.Snapshot()
	if State(rec.State).Live() || g.current() != nil {
		return fault.New(fault.WrongState, "guest %s is %s: stop it first", name, rec.State)
	}
	if err := move.Delete(&rec); err != nil {
		return err
	}
	if err := f.Store.Delete(name); err != nil {
		return fault.New(fault.Storage, "%w", err)
	}
	os.RemoveAll(f.runDir(name))
	g.mu.Lock()
	g.rec.State = string(deleted)
	g.mu.Unlock()
	f.mu.Lock()
	delete(f.guests, name)
	f.mu.Unlock()
	f.Hub.publish(rec, true)
	return nil
}

// deleted leads nowhere: whoever still holds the guest can't start it.
const deleted State = "deleted"

func (f *Fleet) runDir(name string) string { return filepath.Join(f.Runtime, "guests", name) }
