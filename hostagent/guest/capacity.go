package guest

import (
	"maps"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
)

// Capacity is what a node has for guests.
type Capacity struct {
	MemoryMiB int     // of the node, less what is kept back
	Ratio     float64 // of guests' memory to it; 0: memory is not counted
	CPUs      int     // 0: unknown
}

// budget is how much memory guests may have together, in MiB.
func (c Capacity) budget() int { return int(float64(max(0, c.MemoryMiB)) * c.Ratio) }

// fits refuses a guest that is too large for the node even if it were alone.
// QEMU's translation runs any number of CPUs, KVM no more at a time than the
// node has.
func (f *Fleet) fits(rec *store.Guest, limits platform.Limits) error {
	c := f.Capacity
	switch {
	case limits.MaxCPUs > 0 && rec.CPUs > limits.MaxCPUs:
		return fault.New(fault.TooLarge, "guest %s wants %d CPUs, the ultravisor gives a guest %d at most", rec.Name, rec.CPUs, limits.MaxCPUs)
	case c.CPUs > 0 && rec.CPUs > c.CPUs && f.Platform.Protected():
		return fault.New(fault.TooLarge, "guest %s wants %d CPUs, the node has %d", rec.Name, rec.CPUs, c.CPUs)
	case limits.MaxAddress > 0 && uint64(rec.MemoryMiB)<<20 > limits.MaxAddress:
		return fault.New(fault.TooLarge, "guest %s wants %d MiB of memory, the ultravisor gives a guest %d MiB at most", rec.Name, rec.MemoryMiB, limits.MaxAddress>>20)
	case c.Ratio > 0 && rec.MemoryMiB > c.budget():
		return fault.New(fault.TooLarge, "guest %s wants %d MiB of memory, the node has %d MiB for guests", rec.Name, rec.MemoryMiB, c.budget())
	}
	return nil
}

// admitStart refuses a start for which the node has no room now, or whose disks
// another guest uses. What runs is what the records say, so a restart of
// hostagent forgets no claim; starts are admitted one at a time, and one that
// waits for its turn does not count yet.
func (f *Fleet) admitStart(rec *store.Guest) error {
	limits, err := f.Platform.Limits()
	if err != nil {
		return fault.New(fault.Node, "start guest %s: %w", rec.Name, err)
	}
	if err := f.fits(rec, limits); err != nil {
		return err
	}
	if err := f.admitAgain(rec, limits); err != nil {
		return err
	}
	wanted, err := f.claimsOf(rec)
	if err != nil {
		return err
	}
	f.admission.Lock()
	defer f.admission.Unlock()
	if f.claims == nil {
		f.claims = make(map[string][]claim)
	}
	delete(f.claims, rec.Name)
	running, promised := 0, 0
	seen := make(map[string]bool)
	for _, g := range f.List() {
		other := g.record()
		held, admitted := f.claims[other.Name]
		if other.Name == rec.Name || !State(other.State).Live() || State(other.State) == Starting && !admitted {
			continue
		}
		if !admitted { // taken over from an earlier hostagent
			if held, err = f.claimsOf(other); err != nil {
				return err
			}
			f.claims[other.Name] = held
		}
		seen[other.Name] = true
		running++
		promised += other.MemoryMiB
		if err := conflict(rec.Name, wanted, other.Name, held); err != nil {
			return err
		}
	}
	maps.DeleteFunc(f.claims, func(name string, _ []claim) bool { return !seen[name] })
	if limits.MaxGuests > 0 && running >= limits.MaxGuests {
		return fault.New(fault.Promised, "%d guests run, as many as the ultravisor takes at one time", running)
	}
	if free := f.Capacity.budget() - promised; f.Capacity.Ratio > 0 && rec.MemoryMiB > free {
		return fault.New(fault.Promised, "guest %s wants %d MiB of memory, %d MiB are left: %d running guests have %d of the node's %d MiB", rec.Name, rec.MemoryMiB, max(0, free), running, promised, f.Capacity.budget())
	}
	f.claims[rec.Name] = wanted
	return nil
}
