package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
)

// Leave marks the guest as leaving to peer and returns the move's id. The guest
// must not run.
func (g *Guest) Leave(ctx context.Context, peer string) (id string, err error) {
	err = g.still(ctx, func(rec *store.Guest) error {
		err := move.Leave(rec, peer)
		id = move.IDOf(rec)
		return err
	})
	return id, err
}

// Give hands the guest over to a copy and returns the key that lets it start.
// From then on the guest does not start here.
func (g *Guest) Give(ctx context.Context, id, copy string) (key string, err error) {
	err = g.still(ctx, func(rec *store.Guest) error {
		err := move.Give(rec, id, copy)
		if err == nil {
			key = rec.Move.Token
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return key, nil
}

// Seal marks an arriving guest as complete; the caller has checked its files and
// sees to it that nothing writes to them.
func (g *Guest) Seal(id string) error {
	return g.update(func(rec *store.Guest) error { return move.Seal(rec, id) })
}

// Take lets a complete copy start.
func (g *Guest) Take(key, copy string) error {
	return g.update(func(rec *store.Guest) error { return move.Take(rec, key, copy) })
}

// still changes the record of a guest that does not run.
func (g *Guest) still(ctx context.Context, change func(*store.Guest) error) error {
	if err := g.settled(ctx); err != nil {
		return err
	}
	return g.update(func(rec *store.Guest) error {
		switch State(rec.State) {
		case Created, Stopped, Failed:
		case deleted:
			return fault.New(fault.NoGuest, "there is no guest %s any more", rec.Name)
		default: // it runs, or is about to
			return fault.New(fault.WrongState, "guest %s is %s: stop it first", rec.Name, rec.State)
		}
		if g.current() != nil {
			return fault.New(fault.WrongState, "guest %s has not ended yet", rec.Name)
		}
		return change(rec)
	})
}

// Arrive makes a guest whose files come from another node, or goes on with one.
// The record is that of move.Arrival.
func (f *Fleet) Arrive(ctx context.Context, rec *store.Guest, id, peer, replaces string) (*Guest, error) {
	f.mu.Lock()
	g, taken := f.guests[rec.Name]
	if !taken {
		f.guests[rec.Name] = nil
	}
	f.mu.Unlock()
	switch {
	case taken && g == nil:
		return nil, fault.New(fault.NameTaken, "there is a guest %s already", rec.Name)
	case taken:
		return g, g.still(ctx, func(there *store.Guest) error {
			if err := move.Arrive(rec, there, id, peer, replaces); err != nil {
				return err
			}
			if move.PhaseOf(there) != move.Arrived || move.IDOf(there) != id { // which is complete
				*there = *rec
			}
			return nil
		})
	}
	err := move.Arrive(rec, nil, id, peer, replaces)
	if err == nil {
		g = newGuest(f, *rec)
		err = f.settleIn(g)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		delete(f.guests, rec.Name)
		return nil, err
	}
	f.guests[rec.Name] = g
	return g, nil
}

// settleIn makes an arriving guest's folder and record.
func (f *Fleet) settleIn(g *Guest) error {
	dir := g.dir()
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.NameTaken, "%s holds a guest that this hostagent can't read: its log says why", dir)
	}
	if err != nil {
		return fault.New(fault.Storage, "make guest's folder: %w", err)
	}
	if err := g.update(func(*store.Guest) error { return nil }); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// Bury removes a guest that was given away and taken, or marks it as gone.
func (f *Fleet) Bury(ctx context.Context, name, id string, keep bool) error {
	g, err := f.Get(name)
	if err != nil {
		return err
	}
	if err := g.still(ctx, func(rec *store.Guest) error { return move.Bury(rec, id) }); err != nil || keep {
		return err
	}
	return f.Delete(ctx, name)
}

// CancelMove ends a move on this node; move.Cancel says what lost is.
func (f *Fleet) CancelMove(ctx context.Context, name, id string, lost bool) error {
	g, err := f.Get(name)
	if err != nil {
		return err
	}
	remove := false
	err = g.still(ctx, func(rec *store.Guest) (err error) {
		if remove, err = move.Cancel(rec, id, lost); remove {
			// So that it may be removed, and a seal that is under way fails.
			rec.Move = &store.Move{Token: id, Phase: move.Arriving, Peer: rec.Move.Peer}
		}
		return err
	})
	if err != nil || !remove {
		return err
	}
	return f.Delete(ctx, name)
}

// MovedFile opens a file of a guest in a move: to read one of a leaving guest, to
// write one of an arriving guest. Its caller closes it.
func (g *Guest) MovedFile(id, file string, write bool) (*move.Disk, error) {
	rec := g.Snapshot()
	phase := move.Leaving
	if write {
		phase = move.Arriving
	}
	if err := move.In(&rec, id, phase); err != nil {
		return nil, err
	}
	if !slices.Contains(move.Files(&rec), file) {
		return nil, fault.New(fault.BadRequest, "guest %s has no file %.80q", rec.Name, file)
	}
	d, err := move.OpenDisk(g.dir(), file, write, -1)
	if err != nil {
		return nil, fault.New(fault.Storage, "open file of guest %s: %w", rec.Name, err)
	}
	return d, nil
}

// Fits refuses a guest that this node has not enough for.
func (f *Fleet) Fits(rec *store.Guest) error {
	limits, err := f.Platform.Limits()
	if err != nil {
		return fault.New(fault.Node, "%w", err)
	}
	return f.fits(rec, limits)
}

// Room refuses a guest of this size if it could not be started now, beside those
// that run.
func (f *Fleet) Room(memoryMiB, cpus int) error {
	probe := &store.Guest{MemoryMiB: memoryMiB, CPUs: cpus, Boot: bundle.BootDisk} // without files to look at, and no guest's name
	err := f.admitStart(probe)
	f.admission.Lock()
	defer f.admission.Unlock()
	delete(f.claims, probe.Name)
	return err
}

// AdmitCopy refuses a guest whose image, as it has arrived, this node could
// never start.
func (g *Guest) AdmitCopy() error {
	limits, err := g.fleet.Platform.Limits()
	if err != nil {
		return fault.New(fault.Node, "%w", err)
	}
	rec := g.Snapshot()
	return g.fleet.admitAgain(&rec, limits)
}

// Dir is the guest's folder.
func (g *Guest) Dir() string { return g.dir() }

// MakeRoom gives an arriving guest its files, with these sizes and what is there
// of them, and removes others that an earlier copy left.
func (g *Guest) MakeRoom(id string, sizes map[string]int64) error {
	rec := g.Snapshot()
	if err := move.In(&rec, id, move.Arriving); err != nil {
		return err
	}
	for name, size := range sizes {
		path := filepath.Join(g.dir(), name)
		if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.Storage, "make room for guest %s: %w", rec.Name, err)
		}
		d, err := move.OpenDisk(g.dir(), name, true, size)
		if err != nil {
			return fault.New(fault.Storage, "make room for guest %s: %w", rec.Name, err)
		}
		d.Close()
	}
	entries, err := os.ReadDir(g.dir())
	if err != nil {
		return fault.New(fault.Storage, "make room for guest %s: %w", rec.Name, err)
	}
	for _, e := range entries {
		if _, ok := sizes[e.Name()]; !ok && !store.Reserved(e.Name()) && e.Name()[0] != '.' {
			err = errors.Join(err, os.RemoveAll(filepath.Join(g.dir(), e.Name())))
		}
	}
	if err != nil {
		return fault.New(fault.Storage, "make room for guest %s: %w", rec.Name, err)
	}
	return nil
}
