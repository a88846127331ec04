package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// claim is a disk that a guest uses. What counts is the file or block device, by
// whatever path: links, hard links, bind mounts and device nodes lead to the
// same numbers. (QEMU's own locks on top of it hold against other nodes that
// share a file system, and against programs beside hostagent.)
type claim struct {
	block    bool   // a block device: major and minor are dev
	dev, ino uint64 // of the file otherwise
	whole    uint64 // of a partition: the number of the disk that it is on
	readOnly bool
	path     string // as the guest's record has it
}

// claimsOf finds what a guest's disks are. One that is not there is nobody's:
// QEMU says so when it starts.
func (f *Fleet) claimsOf(rec *store.Guest) ([]claim, error) {
	claims := []claim{}
	for _, d := range rec.Disks {
		path := d.Path
		if path == "" {
			path = filepath.Join(f.Store.Dir(rec.Name), d.File)
		}
		c, err := claimOf(path, d.ReadOnly)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.New(fault.Storage, "find disk of guest %s: %w", rec.Name, err)
		}
		if err := conflict(rec.Name, []claim{c}, rec.Name, claims); err != nil {
			return nil, err
		}
		claims = append(claims, c)
	}
	return claims, nil
}

func claimOf(path string, readOnly bool) (claim, error) {
	info, err := os.Stat(path)
	if err != nil {
		return claim{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return claim{}, fmt.Errorf("%s: no numbers of its file", path)
	}
	c := claim{dev: uint64(st.Dev), ino: st.Ino, readOnly: readOnly, path: path}
	if st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		c.block, c.dev, c.ino = true, uint64(st.Rdev), 0
		c.whole = wholeOf("/sys/dev/block", c.dev)
	}
	return c, nil
}

// wholeOf is the number of the disk that a partition is on, 0 for what is no
// partition. The folder has a link for each device, to where its disk's files
// are one folder up.
func wholeOf(folder string, dev uint64) uint64 {
	link := fmt.Sprintf("%s/%d:%d", folder, unix.Major(dev), unix.Minor(dev))
	if _, err := os.Stat(link + "/partition"); err != nil {
		return 0
	}
	text, err := os.ReadFile(link + "/../dev") // the kernel follows the link first
	if err != nil {
		return 0
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0
	}
	return unix.Mkdev(major, minor)
}

// shares tells whether a byte can be on both.
func (c claim) shares(o claim) bool {
	if c.block != o.block {
		return false
	}
	return c.dev == o.dev && c.ino == o.ino || c.block && (c.whole == o.dev || o.whole == c.dev)
}

// conflict refuses a disk that two guests would use, one of them for writing.
func conflict(name string, wanted []claim, other string, held []claim) error {
	for _, w := range wanted {
		for _, h := range held {
			if !w.shares(h) || w.readOnly && h.readOnly {
				continue
			}
			switch {
			case name == other:
				return fault.New(fault.DiskInUse, "guest %s has one disk twice: %s and %s", name, h.path, w.path)
			case w.path == h.path:
				return fault.New(fault.DiskInUse, "guest %s can't have disk %s: guest %s uses it", name, w.path, other)
			}
			return fault.New(fault.DiskInUse, "guest %s can't have disk %s: guest %s uses it as %s", name, w.path, other, h.path)
		}
	}
	return nil
}
