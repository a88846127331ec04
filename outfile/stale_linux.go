package outfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// temporary is the pattern of an output's temporary siblings.
func temporary(path string) string { return "." + filepath.Base(path) + ".part-*" }

// createLocked makes an output's temporary file. The lock lives as long as the
// open file; children don't inherit it.
func createLocked(path string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(path), temporary(path))
		if err != nil {
			return nil, err
		}
		if locked(f, f.Name()) {
			return f, nil
		}
		f.Close() // somebody took the newborn for a dead one
	}
}

// mkdirLocked makes an output's temporary folder.
func mkdirLocked(path string) (string, *os.File, error) {
	for {
		tmp, err := os.MkdirTemp(filepath.Dir(path), temporary(path))
		if err != nil {
			return "", nil, err
		}
		f, err := os.Open(tmp)
		if err == nil && locked(f, tmp) {
			return tmp, f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			os.Remove(tmp)
			return "", nil, err
		}
	}
}

// lockDir makes the folder or finds it, and locks it.
func lockDir(path string, mode os.FileMode) (*os.File, error) {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		f.Close()
		return nil, ErrBusy
	}
	if !locked(f, path) { // its maker committed it this moment
		f.Close()
		return nil, ErrBusy
	}
	return f, nil
}

// locked locks f, waiting for nobody but who is about to remove it, and tells
// whether it is still at path. On a file system without locks it is unlocked,
// and removeStale can't lock either: nothing is removed.
func locked(f *os.File, path string) bool {
	for unix.Flock(int(f.Fd()), unix.LOCK_EX) == unix.EINTR {
	}
	mine, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}

// removeStale removes an output's temporary siblings whose makers are dead. It
// does what it can: the output does not depend on it.
func removeStale(path string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return
	}
	prefix := strings.TrimSuffix(temporary(path), "*")
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || rest == "" || strings.Trim(rest, "0123456789") != "" || !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(filepath.Dir(path), e.Name())
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeAll(name)
		}
		f.Close()
	}
}

// removeAll removes a folder and what is in it, folders without write
// permission too: a staged root file system has them.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
