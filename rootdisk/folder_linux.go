package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// stamp tells whether a file is still the one that was looked at, and unchanged.
type stamp struct {
	inode        uint64
	mode         uint32
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp { return stamp{st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim} }

// openFolder is the tree of a folder that is read where it lies.
func openFolder(dir string, limit int64) *tree {
	return &tree{dir: dir, limit: limit, top: newFolder(0)}
}

// addFolder looks at a folder's files. Run by root it keeps owners; run by anybody
// else all belongs to root, since nobody else's files make a root. Sockets are left
// out, as tar does; skipped is told of each.
func (t *tree) addFolder(ctx context.Context, source string, skipped func(string)) error {
	keepOwners := os.Geteuid() == 0
	first := make(map[[2]uint64]string) // device and inode to the first name
	return filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		stat := unix.Lstat
		if rel == "." {
			stat = unix.Stat // the source itself may be a symbolic link
		}
		if err := stat(path, &st); err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		if st.Mode&modeType == unix.S_IFSOCK {
			skipped(rel)
			return nil
		}
		i := &inode{mode: st.Mode, mtime: max(0, st.Mtim.Sec), seen: stampOf(&st)}
		if i.device() {
			i.major, i.minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
		}
		if keepOwners {
			i.uid, i.gid = st.Uid, st.Gid
		}
		if i.xattrs, err = xattrs(path); err != nil {
			return err
		}
		if i.kind() != modeDir && st.Nlink > 1 {
			id := [2]uint64{uint64(st.Dev), st.Ino}
			if to := first[id]; to != "" {
				return t.link(rel, to)
			}
			first[id] = rel
		}
		switch i.kind() {
		case modeFile:
			if i.stored, err = storedBytes(path, &st); err != nil {
				return err
			}
			return t.add(rel, i, nil, st.Size)
		case modeSymlink:
			if i.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		return t.add(rel, i, nil, 0)
	})
}

// xattrs reads a file's extended attributes, those of links themselves.
func xattrs(path string) ([]xattr, error) {
	list := make([]byte, maxXattrBytes)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes of %s: %w", path, err)
	}
	var out []xattr
	for start, i := 0, 0; i < n; i++ {
		if list[i] != 0 {
			continue
		}
		name := string(list[start:i])
		start = i + 1
		value := make([]byte, maxXattrBytes)
		size, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s of %s: %w", name, path, err)
		}
		out = append(out, xattr{name, value[:size:size]})
	}
	return out, nil
}

// storedBytes returns the bytes of a file that are no holes, in whole blocks.
func storedBytes(path string, st *unix.Stat_t) (n int64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err // who can't be read is better named now than by mke2fs
	}
	defer f.Close()
	if st.Blocks*512 >= st.Size {
		return (st.Size + 4095) &^ 4095, nil
	}
	for at := int64(0); at < st.Size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return n, nil
		}
		if err == nil {
			at, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		}
		if err != nil {
			return (st.Size + 4095) &^ 4095, nil // a file system that knows no holes
		}
		n += (at+4095)&^4095 - from&^4095
	}
	return n, nil
}

// unchanged tells whether all of a folder is as it was when addFolder looked:
// what mke2fs read is then what was meant.
func (t *tree) unchanged() error {
	return t.each(func(name string, n *node) error {
		if n.seen == (stamp{}) {
			return nil // addMissing's
		}
		var st unix.Stat_t
		stat := unix.Lstat
		if name == "." {
			stat = unix.Stat
		}
		if err := stat(filepath.Join(t.dir, name), &st); err != nil || n.seen != stampOf(&st) {
			return errors.Join(fmt.Errorf("%w: %s changed while it was read", ErrSource, name), err)
		}
		return nil
	})
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
