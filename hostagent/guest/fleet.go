package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/placement"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/seimage"
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

// Request says what to create.
type Request struct {
	Name      string // "": the bundle's
	Bundle    string // absolute path
	MemoryMiB int    // 0: the manifest's
	CPUs      int    // 0: 1
	ID        string // of the request, for a repeated one; "": never repeated
	Loadparm  string // entry of the boot menu of a bundle that boots from its disk; "": the default
}

var requestForm = regexp.MustCompile(`^[a-zA-Z0-9-]{0,64}$`)

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

// record makes the record of a guest to be.
func record(m *bundle.Manifest, r Request) (*store.Guest, error) {
	rec := &store.Guest{
		Name: r.Name, UUID: newUUID(), State: string(Created), ImageID: m.Image.ID, Identity: m.Identity, Image: m.Image.File, Boot: m.Boot, Loadparm: r.Loadparm,
		MemoryMiB: r.MemoryMiB, CPUs: r.CPUs, Request: r.ID, Created: time.Now().UTC(),
	}
	if rec.Name == "" {
		rec.Name = m.Name
	}
	if rec.MemoryMiB == 0 {
		rec.MemoryMiB = m.MemoryMiB
	}
	if rec.CPUs == 0 {
		rec.CPUs = 1
	}
	if err := store.CheckName(rec.Name); err != nil {
		return nil, fault.New(fault.BadRequest, "%w", err)
	}
	if rec.MemoryMiB < 64 || rec.MemoryMiB > qemu.MaxMemoryMiB || rec.CPUs < 1 || rec.CPUs > qemu.MaxCPUs {
		return nil, fault.New(fault.BadRequest, "guest %s can't have %d MiB of memory and %d CPUs", rec.Name, rec.MemoryMiB, rec.CPUs)
	}
	if r.Loadparm != "" && m.Boot != bundle.BootDisk {
		return nil, fault.New(fault.BadRequest, "guest %s does not boot from a disk: it has no boot menu to choose from by a loadparm", rec.Name)
	}
	if err := qemu.CheckLoadparm(r.Loadparm); err != nil {
		return nil, fault.New(fault.BadRequest, "%w", err)
	}
	if store.Reserved(m.Image.File) {
		return nil, fault.New(fault.Bundle, "bundle has a part %s, a name that hostagent needs itself", m.Image.File)
	}
	for _, d := range m.Disks {
		if store.Reserved(d.File) {
			return nil, fault.New(fault.Bundle, "bundle has a part %s, a name that hostagent needs itself", d.File)
		}
		rec.Disks = append(rec.Disks, store.Disk{File: d.File, Serial: d.Serial, ReadOnly: d.ReadOnly})
	}
	return rec, nil
}

// admit refuses an image that this node can't start.
func (f *Fleet) admit(b *bundle.Bundle) error {
	hashes, err := f.Platform.HostKeyHashes()
	if errors.Is(err, platform.ErrHashesUnknown) {
		return nil // firmware decides
	}
	if err != nil {
		return fault.New(fault.Node, "%w", err)
	}
	part := b.Manifest.Image.Part
	file, err := b.OpenPart(part)
	if err != nil {
		return fault.New(fault.Bundle, "%w", err)
	}
	defer file.Close()
	img, err := seimage.Open(file, part.Size)
	if err != nil {
		return fault.New(fault.Bundle, "%w", err)
	}
	var header [][32]byte
	for _, s := range img.Header.Slots {
		header = append(header, s.HostHash)
	}
	var index []placement.Slot
	for _, s := range b.Manifest.KeySlots {
		slot := placement.Slot{Name: s.Subject}
		if _, err := hex.Decode(slot.Hash[:], []byte(s.HostKeyHash)); err != nil {
			return fault.New(fault.Bundle, "%w", err)
		}
		index = append(index, slot)
	}
	err = placement.Check(header, index, hashes)
	switch {
	case errors.Is(err, placement.ErrNoSlot):
		return fault.New(fault.NoSlot, "%w", err)
	case err != nil:
		return fault.New(fault.Bundle, "%w", err)
	}
	return nil
}

// populate copies the bundle's parts into the guest's folder. The record comes
// last: a folder without one is removed when hostagent starts.
func (f *Fleet) populate(ctx context.Context, b *bundle.Bundle, g *Guest) error {
	dir := g.dir()
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.NameTaken, "%s holds a guest that this hostagent can't read: its log says why", dir)
	}
	if err != nil {
		return fault.New(fault.Storage, "make guest's folder: %w", err)
	}
	err = copyPart(ctx, b, b.Manifest.Image.Part, dir, 0o400)
	for _, d := range b.Manifest.Disks {
		if err == nil {
			err = copyPart(ctx, b, d.Part, dir, 0o600)
		}
	}
	if err == nil {
		err = g.update(func(*store.Guest) error { return nil })
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

func copyPart(ctx context.Context, b *bundle.Bundle, p bundle.Part, dir string, mode os.FileMode) error {
	out, err := os.OpenFile(filepath.Join(dir, p.File), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fault.New(fault.Storage, "copy bundle: %w", err)
	}
	err = b.CopyPart(ctx, p, out)
	if errors.Is(err, bundle.ErrDamaged) || errors.Is(err, bundle.ErrMissing) {
		out.Close()
		return fault.New(fault.Bundle, "%w", err)
	}
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fault.New(fault.Storage, "copy bundle: %w", err)
	}
	return nil
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

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version 4, RFC 9562
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
