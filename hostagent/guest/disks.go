package guest

import (
	"os"
	"slices"

	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/store"
)

// openDisk opens a guest's disks for QEMU: its own ones in its folder, attached
// ones beneath the folders that the operator allows, without following links
// out. What was looked at when the guest was created may be another thing by
// now.
func (f *Fleet) openDisk(rec *store.Guest) func(path string, flags int) (*os.File, error) {
	return func(path string, flags int) (*os.File, error) {
		allowed := roots.Roots{f.Store.Dir(rec.Name)}
		attached := slices.ContainsFunc(rec.Disks, func(d store.Disk) bool { return d.Path == path })
		if attached {
			if allowed = f.DiskRoots; len(allowed) == 0 {
				allowed = roots.Roots{"/"}
			}
		}
		return allowed.File(path, nil, flags, attached)
	}
}
