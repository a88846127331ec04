package guest

import (
	"errors"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// Ask is what a Create asks of its caller's quota.
type Ask struct {
	Name                       string
	MemoryMiB, CPUs, DiskBytes int64
}

// Owner is the user that the guest belongs to.
func (g *Guest) Owner() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rec.Owner
}

// Ask is what the guest itself counts for: its memory, its CPUs, and the image
// and disks in its folder at the size that a Create copied.
func (g *Guest) Ask() Ask {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Ask{g.rec.Name, int64(g.rec.MemoryMiB), int64(g.rec.CPUs), g.rec.DiskBytes}
}

// open opens the bundle as the caller may.
func (r *Request) open() (b *bundle.Bundle, err error) {
	if r.Folder == nil {
		b, err = bundle.Open(r.Bundle)
	} else {
		var folder bundle.Folder
		if folder, err = r.Folder(); err != nil {
			return nil, err // with its code
		}
		b, err = bundle.OpenFolder(folder)
	}
	if err != nil {
		return nil, bundleFault(err)
	}
	return b, nil
}

// bundleFault keeps the code of a refusal by the caller's folder.
func bundleFault(err error) *fault.Error {
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return f
	}
	return fault.New(fault.Bundle, "%w", err)
}

// reserve asks the caller's quota for a guest. What it gives is given back by
// release, once the guest counts itself or will not be.
func (r *Request) reserve(rec *store.Guest) (release func(), err error) {
	if r.Reserve == nil {
		return func() {}, nil
	}
	return r.Reserve(Ask{rec.Name, int64(rec.MemoryMiB), int64(rec.CPUs), rec.DiskBytes})
}

// partsSize is how many bytes a bundle's parts have.
func partsSize(m *bundle.Manifest) int64 {
	size := m.Image.Size
	for _, d := range m.Disks {
		size += d.Size
	}
	return size
}
