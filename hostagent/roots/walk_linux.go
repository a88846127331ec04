package roots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Folder opens a folder for a reader, nil: this process.
func (r Roots) Folder(path string, as *Reader) (*Folder, error) {
	f, err := r.walk(path, as)
	if err != nil {
		return nil, err
	}
	if err := search(f, path, as); err != nil {
		f.Close()
		return nil, err
	}
	return &Folder{dir: f, path: path, as: as}, nil
}

// File opens a regular file, or with block a block device too, for a reader. The
// flags are those of os.OpenFile; the file is never made.
func (r Roots) File(path string, as *Reader, flags int, block bool) (*os.File, error) {
	f, err := r.walk(path, as)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return reopen(f, path, as, flags, block)
}

// Open opens a regular file of the folder for reading. A link is refused.
func (f *Folder) Open(name string) (*os.File, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%w: %.100q is not a file's name", ErrRefused, name)
	}
	path := filepath.Join(f.path, name)
	at, err := openPath(int(f.dir.Fd()), name, path)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return reopen(at, path, f.as, os.O_RDONLY, false)
}

// walk opens what a path leads to, as O_PATH. Its folders are searchable for the
// reader.
func (r Roots) walk(path string, as *Reader) (_ *os.File, err error) {
	root, names, err := r.find(path)
	if err != nil {
		return nil, err
	}
	at, err := openPath(unix.AT_FDCWD, root, root) // the operator's own words: links on the way to it are his
	if err != nil {
		return nil, err
	}
	if st, e := stat(at, root); e == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		at.Close()
		if root, err = filepath.EvalSymlinks(root); err != nil {
			return nil, err
		}
		if at, err = openPath(unix.AT_FDCWD, root, root); err != nil {
			return nil, err
		}
	}
	stack := []*os.File{at} // of folders from the root on; the last one is where we are
	defer func() {
		for _, f := range stack {
			f.Close()
		}
	}()
	links := 0
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		top := stack[len(stack)-1]
		if name == ".." { // only links have it
			if len(stack) == 1 {
				return nil, fmt.Errorf("%w: a link in %s leads out of %s", ErrRefused, path, root)
			}
			top.Close()
			stack = stack[:len(stack)-1]
			continue
		}
		if err := search(top, path, as); err != nil {
			return nil, err
		}
		next, err := openPath(int(top.Fd()), name, path)
		if err != nil {
			return nil, err
		}
		stack = append(stack, next)
		st, err := stat(next, path)
		if err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			if len(stack) > maxDepth {
				return nil, fmt.Errorf("%w: %.200q is more than %d folders deep", ErrRefused, path, maxDepth)
			}
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%w: %s has more than %d links", ErrRefused, path, maxLinks)
		}
		target, err := readLink(next)
		if err != nil {
			return nil, fmt.Errorf("read a link in %s: %w", path, err)
		}
		next.Close()
		stack = stack[:len(stack)-1]
		if filepath.IsAbs(target) {
			if target = filepath.Clean(target); !within(root, target) {
				return nil, fmt.Errorf("%w: a link in %s leads out of %s", ErrRefused, path, root)
			}
			for ; len(stack) > 1; stack = stack[:len(stack)-1] {
				stack[len(stack)-1].Close()
			}
			target = target[len(root):]
		}
		names = append(split(target), names...)
	}
	last := len(stack) - 1
	found := stack[last]
	stack = stack[:last]
	return found, nil
}

// reopen opens what an O_PATH descriptor stands for, if it is of a kind that may
// be: opening a device, say, is an act of its own.
func reopen(f *os.File, path string, as *Reader, flags int, block bool) (*os.File, error) {
	st, err := stat(f, path)
	if err != nil {
		return nil, err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		return nil, fmt.Errorf("%w: %s is a link", ErrRefused, path)
	case kind != unix.S_IFREG && !(block && kind == unix.S_IFBLK):
		return nil, fmt.Errorf("%w: %s is no regular file", ErrRefused, path)
	}
	if err := as.may(f, st, read, path); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), flags&^unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// search refuses a folder that the reader may not walk through.
func search(f *os.File, path string, as *Reader) error {
	st, err := stat(f, path)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return &os.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	return as.may(f, st, execute, path)
}

// Bits of a mode's three for others.
const (
	read    = 4
	execute = 1
)

// may refuses what the reader has no right to.
func (as *Reader) may(f *os.File, st *unix.Stat_t, bit uint32, path string) error {
	if as == nil || as.UID == 0 {
		return nil
	}
	mode := st.Mode
	switch {
	case st.Uid == as.UID:
		mode >>= 6
	case hasACL(f):
		return fmt.Errorf("%w: %s, or a folder above it, has an access control list", ErrRefused, path)
	case slices.Contains(as.GIDs, st.Gid):
		mode >>= 3
	}
	if mode&bit == 0 {
		return fmt.Errorf("%w: uid %d may not read %s", ErrRefused, as.UID, path)
	}
	return nil
}

// hasACL tells whether the mode is not all that decides. When in doubt it does
// not.
func hasACL(f *os.File) bool {
	_, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), "system.posix_acl_access", nil)
	return err == nil || !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}

func openPath(dir int, name, path string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func stat(f *os.File, path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return &st, nil
}

func readLink(f *os.File) (string, error) {
	b := make([]byte, maxPath)
	n, err := unix.Readlinkat(int(f.Fd()), "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
