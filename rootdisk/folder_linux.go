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

// addFolder stages a folder. Run by root it keeps owners; run by anybody else
// all belongs to root, since nobody else's files make a root.
func (t *tree) addFolder(ctx context.Context, source string) error {
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
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		if st.Mode&modeType == unix.S_IFSOCK {
			return nil // left by a program that ran; no archive holds them either
		}
		e := entry{
			path: rel, mode: st.Mode, mtime: max(0, st.Mtim.Sec),
			major: unix.Major(uint64(st.Rdev)), minor: unix.Minor(uint64(st.Rdev)),
		}
		if keepOwners {
			e.uid, e.gid = st.Uid, st.Gid
		}
		if e.xattrs, err = xattrs(path); err != nil {
			return err
		}
		id := [2]uint64{uint64(st.Dev), st.Ino}
		switch e.mode & modeType {
		case modeFile:
			if e.link = first[id]; e.link != "" {
				return t.add(e, nil, 0, "")
			}
			if st.Nlink > 1 {
				first[id] = rel
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			return t.add(e, &contextReader{ctx, f}, st.Size, "")
		case modeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return t.add(e, nil, 0, target)
		}
		return t.add(e, nil, 0, "")
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
		out = append(out, xattr{name, value[:size]})
	}
	return out, nil
}
