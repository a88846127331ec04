package guest

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/secexec/secexec/form"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/store"
)

// Files of a guest, in its state folder and its runtime folder.
const (
	consoleFile     = "console.log"
	qemuLog         = "qemu.log"
	qmpSocket       = "qmp.sock"
	readinessSocket = "readiness.sock"
	channelSocket   = "channel.sock"
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
	DiskRoots    roots.Roots   // beneath which attached disks lie; none: anywhere
	Runtime      string        // folder of sockets
	ReadyTimeout time.Duration // from start to ready
	Capacity     Capacity      // what the node has for guests
	// CheckQEMU reports why a program can't run guests of a protected platform;
	// nil: it is not asked.
	CheckQEMU func(ctx context.Context, binary string) error
	Boot      string // this boot of the node; "": as BootID says
	Vsock     Vsock  // nil: guests get no vsock device
}

// Vsock is how guests get a vsock device, and are reached by it: a qemu.Vsock.
type Vsock interface {
	// Open gives a guest's QEMU its device, with an address of the guest's own. The
	// error wraps os.ErrNotExist where the node has none.
	Open() (device *os.File, cid uint32, err error)
	Dial(ctx context.Context, cid uint32) (net.Conn, error)
}

// Fleet is all guests of a hostagent.
type Fleet struct {
	Options
	ctx   context.Context // ends with Close; guests go on
	stop  context.CancelFunc
	lives sync.WaitGroup
	logs  *logs

	admission sync.Mutex         // one start is admitted at a time
	claims    map[string][]claim // disks of guests that were admitted to run

	mu       sync.Mutex
	guests   map[string]*Guest    // nil: a Create is under way
	creating map[string]*creation // those
}

// creation is a Create under way.
type creation struct {
	id    string        // of its request
	owner uint32        // uid of who makes it
	done  chan struct{} // closed when err is valid
	err   error
}

// NewFleet loads all guests, takes over those that run and starts those that are
// due.
func NewFleet(ctx context.Context, o Options) (*Fleet, error) {
	f := &Fleet{Options: o, guests: make(map[string]*Guest), creating: make(map[string]*creation)}
	if f.Boot == "" {
		f.Boot = BootID()
	}
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	f.logs = newLogs(f.Log)
	recs, problems, err := o.Store.Load()
	if err != nil {
		f.logs.close()
		return nil, err
	}
	f.lives.Go(f.logs.run)
	f.lives.Go(func() { f.tidy(f.ctx) })
	for _, problem := range problems {
		f.Log.Error("load guests", journal.Damaged, "error", problem)
	}
	var due []*Guest
	for _, rec := range recs {
		g := newGuest(f, *rec)
		f.guests[rec.Name] = g
		if f.settle(ctx, g, rec) {
			due = append(due, g)
		}
	}
	if len(due) > 0 {
		f.lives.Go(func() { f.autostart(f.ctx, due) })
	}
	return f, nil
}

// settle decides what became of a guest since the last hostagent ended, and
// whether it is to start because the node was booted.
func (f *Fleet) settle(ctx context.Context, g *Guest, rec *store.Guest) (due bool) {
	was, due := State(rec.State), f.due(rec)
	l := newLife(g)
	gone := launch.ErrGone
	if was.Live() && rec.Process != nil {
		l.proc, gone = f.adopt(ctx, *rec.Process)
	}
	var err error
	switch {
	case was.Live() && was != Starting && gone == nil:
		g.setLife(l)
		f.lives.Go(func() { l.adopt(f.ctx) })
		f.Log.Info("guest taken over", journal.Adopted, "guest", rec.Name, "state", rec.State, "pid", rec.Process.PID)
		return false
	case was == Starting || was.Live() && !errors.Is(gone, launch.ErrGone):
		// Cut off, or one that can't be supervised.
		f.endOrphans(ctx, l, rec.UUID)
		fallthrough
	case was.Live() || due:
		os.RemoveAll(f.runDir(rec.Name))
		if due {
			err = g.queue()
		} else {
			err = g.end(f.lost(rec, gone))
		}
	case was == Waiting:
		g.await(rec.RestartAt)
		return false
	default:
		return false
	}
	if err != nil {
		f.Log.Error("settle guest", journal.Unsettled, "guest", rec.Name, "error", err)
	}
	f.Log.Warn("guest settled", journal.Settled, "guest", rec.Name, "was", was, "is", g.record().State)
	return due
}

// lost says why a guest that was live does not run any more, and whether that
// was an order.
func (f *Fleet) lost(rec *store.Guest, gone error) (failure *fault.Error, told bool) {
	switch {
	case State(rec.State) == Stopping:
		return nil, true
	case rec.BootID != "" && rec.BootID != f.Boot:
		return fault.New(fault.NodeDown, "the node went down while guest %s was %s", rec.Name, rec.State), false
	case State(rec.State) == Starting:
		return fault.New(fault.Interrupted, "hostagent ended while guest %s started", rec.Name), false
	case !errors.Is(gone, launch.ErrGone):
		return fault.New(fault.Internal, "guest %s was ended: its QEMU can't be supervised: %w", rec.Name, gone), false
	}
	var ended *launch.EndedError
	if errors.As(gone, &ended) {
		return fault.New(diedCode(ended.Exit), "QEMU of guest %s ended while no hostagent ran: %s", rec.Name, ended.Exit), false
	}
	return fault.New(fault.QEMUDied, "QEMU of guest %s ended while no hostagent ran", rec.Name), false
}

// adopt takes over a process, and tries again when that fails for another reason
// than its end.
func (f *Fleet) adopt(ctx context.Context, id launch.Identity) (p launch.Process, err error) {
	for range adoptTries {
		if p, err = f.Launcher.Adopt(ctx, id); err == nil || errors.Is(err, launch.ErrGone) {
			return p, err
		}
		f.Log.Error("take over guest's QEMU", "pid", id.PID, "error", err)
		select {
		case <-time.After(adoptPause):
		case <-ctx.Done():
			return nil, err
		}
	}
	return nil, err
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
	f.logs.close()
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
	out := make([]*Guest, 0, len(f.guests))
	for _, name := range slices.Sorted(maps.Keys(f.guests)) {
		if g := f.guests[name]; g != nil {
			out = append(out, g)
		}
	}
	return out
}

// Create takes over a bundle. The guest exists when it returns nil, and not at
// all otherwise. A call that repeats the id and the name (if it has one) of an
// earlier one gets that one's answer, also while that one is still under way.
func (f *Fleet) Create(ctx context.Context, r Request) (*Guest, error) {
	if !filepath.IsAbs(r.Bundle) {
		return nil, fault.New(fault.BadRequest, "bundle %.200q is not an absolute path", r.Bundle)
	}
	if err := checkRequest(r.ID); err != nil {
		return nil, err
	}
	if g := f.created(r); g != nil { // the bundle may be gone by now
		return g, nil
	}
	b, err := r.open()
	if err != nil {
		return nil, err
	}
	defer b.Close()
	rec, err := record(&b.Manifest, r)
	if err != nil {
		return nil, err
	}
	if err := f.admit(b, rec); err != nil {
		return nil, err
	}
	f.mu.Lock()
	there, taken := f.guests[rec.Name]
	first, own := f.creating[rec.Name], &creation{id: r.ID, owner: r.Owner, done: make(chan struct{})}
	if !taken {
		f.guests[rec.Name], f.creating[rec.Name] = nil, own
	}
	f.mu.Unlock()
	switch {
	case first != nil && r.ID != "" && first.id == r.ID && first.owner == r.Owner:
		select {
		case <-first.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if errors.Is(first.err, context.Canceled) || errors.Is(first.err, context.DeadlineExceeded) {
			return f.Create(ctx, r) // who made it gave up, this caller has not
		}
		if first.err != nil {
			return nil, first.err
		}
		return f.Get(rec.Name)
	case there != nil && r.ID != "" && there.Owner() == r.Owner && there.record().Request == r.ID:
		return there, nil
	case taken:
		return nil, fault.New(fault.NameTaken, "there is a guest %s already", rec.Name)
	}
	g := newGuest(f, *rec)
	release, err := r.reserve(rec)
	if err == nil {
		defer release() // once the guest is among the fleet's
		err = f.populate(ctx, b, g)
	}
	own.err = err
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(own.done)
	delete(f.creating, rec.Name)
	if own.err != nil {
		delete(f.guests, rec.Name)
		return nil, own.err
	}
	f.guests[rec.Name] = g
	return g, nil
}

// created is the guest that an earlier call with this id made.
func (f *Fleet) created(r Request) *Guest {
	if r.ID == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.guests[r.Name]; g != nil && g.Owner() == r.Owner && g.record().Request == r.ID {
		return g
	}
	return nil
}

// checkRequest refuses what is no id of a request.
func checkRequest(id string) error {
	if !form.Request.MatchString(id) {
		return fault.New(fault.BadRequest, "request id %.80q is not up to 64 characters of a-z, A-Z, 0-9 and '-'", id)
	}
	return nil
}

// Delete removes a guest that does not run.
func (f *Fleet) Delete(ctx context.Context, name string) error {
	g, err := f.Get(name)
	if err != nil {
		return err
	}
	return f.Remove(ctx, g)
}

// Remove removes this guest, and not another that has its name by now.
func (f *Fleet) Remove(ctx context.Context, g *Guest) error {
	name := g.Snapshot().Name
	if err := g.settled(ctx); err != nil {
		return err
	}
	g.turn <- struct{}{} // so that no start begins meanwhile
	defer func() { <-g.turn }()
	rec := g.record()
	if State(rec.State) == deleted {
		return fault.New(fault.NoGuest, "there is no guest %.80q", name)
	}
	if State(rec.State).Live() || g.current() != nil {
		return fault.New(fault.WrongState, "guest %s is %s: stop it first", name, rec.State)
	}
	if err := move.Delete(rec); err != nil {
		return err
	}
	if err := f.Store.Delete(name); err != nil {
		return fault.New(fault.Storage, "%w", err)
	}
	os.RemoveAll(f.runDir(name))
	gone := *rec
	gone.State = string(deleted)
	g.mu.Lock()
	g.rec = &gone
	if g.callOff != nil {
		g.callOff()
	}
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
