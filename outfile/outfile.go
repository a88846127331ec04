// Package outfile makes output files and folders that appear complete or not
// at all.
//
// Work goes to a temporary sibling; [File.Commit] and [Dir.Commit] flush it to
// disk and move it to its name without replacing what may have appeared there
// meanwhile. Whether the name is free is asked before the work too, so that an
// hour's work is not lost to a name that was taken from the start.
//
// A maker that is killed can't remove its temporary sibling, which may hold
// plain text of the owner's. So each maker holds a lock on its sibling while it
// lives, and who makes the same output next removes those that nobody holds.
package outfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// ErrExists says that the output's name is taken.
var ErrExists = errors.New("output exists already")

// File is an output file in the making. Its owner ends it by Commit or Abort;
// Abort after Commit does nothing, so it can be deferred.
type File struct {
	*os.File
	path    string
	replace bool
	done    bool
	written atomic.Int64 // bytes, through the page cache

	ample  int64 // of them; more go past it
	once   sync.Once
	direct *os.File // past the page cache, or nil
}

// Create starts the file that Commit will put at path, with these permissions.
// With replace an existing regular file gives way at Commit.
func Create(path string, mode os.FileMode, replace bool) (*File, error) {
	if err := free(path, replace); err != nil {
		return nil, err
	}
	removeStale(path)
	f, err := createLocked(path)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &File{File: f, path: path, replace: replace, ample: ample}, nil
}

// Commit flushes the file, closes it and gives it its name.
func (f *File) Commit() error {
	defer f.Abort()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	move := renameNew
	if f.replace {
		move = os.Rename
	}
	if err := finish(move, f.Name(), f.path); err != nil {
		return err
	}
	f.done = true
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.direct != nil {
		f.direct.Close()
	}
	return f.File.Close()
}

// Abort closes and removes the file unless it was committed.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.Close()
	os.Remove(f.Name())
}

// Dir is an output folder in the making. Its owner ends it by Commit or Abort.
type Dir struct {
	Path    string // where to work: the temporary folder
	path    string
	replace bool
	lock    *os.File
	done    bool
}

// CreateDir starts the folder that Commit will put at path, with these
// permissions.
func CreateDir(path string, mode os.FileMode) (*Dir, error) {
	path = filepath.Clean(path)
	if err := free(path, false); err != nil {
		return nil, err
	}
	return createDir(path, mode, false)
}

// ReplaceDir is CreateDir for a folder that exists: Commit puts the new one in
// its place in one step and then removes the old.
func ReplaceDir(path string, mode os.FileMode) (*Dir, error) {
	path = filepath.Clean(path)
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no folder")
	}
	if err != nil {
		return nil, fmt.Errorf("replace %s: %w", path, err)
	}
	return createDir(path, mode, true)
}

func createDir(path string, mode os.FileMode, replace bool) (*Dir, error) {
	removeStale(path)
	tmp, lock, err := mkdirLocked(path)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	d := &Dir{Path: tmp, path: path, replace: replace, lock: lock}
	if err := os.Chmod(tmp, mode); err != nil {
		d.Abort()
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return d, nil
}

// ErrBusy says that another process is at work on the same output.
var ErrBusy = errors.New("another process is making it")

// ResumeDir is CreateDir, or ReplaceDir, for work that goes on where an earlier
// process stopped: Keep leaves the temporary folder for the next ResumeDir of
// the same path. One process at a time works on it.
func ResumeDir(path string, mode os.FileMode, replace bool) (*Dir, error) {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); err != nil {
		replace = false // nothing to replace; Commit says so if something appears
	}
	if !replace {
		if err := free(path, false); err != nil {
			return nil, err
		}
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".resume")
	lock, err := lockDir(tmp, mode)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &Dir{Path: tmp, path: path, replace: replace, lock: lock}, nil
}

// Keep ends the work and leaves what was made for the next ResumeDir, unless
// the folder was committed.
func (d *Dir) Keep() {
	if !d.done {
		d.done = true
		d.lock.Close()
	}
}

// Join returns the path of a name in the temporary folder.
func (d *Dir) Join(name string) string { return filepath.Join(d.Path, name) }

// Mkdir makes a folder in the folder.
func (d *Dir) Mkdir(name string, mode os.FileMode) error {
	if err := os.Mkdir(d.Join(name), mode); err != nil {
		return fmt.Errorf("create %s: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// WriteFile writes a small file into the folder and flushes it.
func (d *Dir) WriteFile(name string, data []byte, mode os.FileMode) error {
	return d.CopyFile(name, bytes.NewReader(data), mode)
}

// CopyFile writes a stream into a file of the folder and flushes it.
func (d *Dir) CopyFile(name string, r io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(d.Join(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(d.path, name), err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// Link puts a file that exists into the folder: as a hard link, or as a copy
// where the file systems are two. Neither may be written to afterwards.
func (d *Dir) Link(name, from string) error {
	if os.Link(from, d.Join(name)) == nil {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy into %s: %w", d.path, err)
	}
	defer f.Close()
	return d.CopyFile(name, f, 0o644)
}

// Commit gives the folder its name. Files in it were flushed by who wrote them.
func (d *Dir) Commit() error {
	defer d.Abort()
	if err := syncDir(d.Path); err != nil {
		return fmt.Errorf("write %s: %w", d.path, err)
	}
	if d.replace {
		// The old folder now bears the temporary name, and Abort removes it.
		return finish(exchange, d.Path, d.path)
	}
	if err := finish(renameNew, d.Path, d.path); err != nil {
		return err
	}
	d.done = true
	return d.lock.Close()
}

// Withdraw takes a committed folder away again, for a caller whose next step
// failed and that owes its own caller all or nothing.
func (d *Dir) Withdraw() { removeAll(d.path) }

// Abort removes the folder and what is in it unless it was committed.
func (d *Dir) Abort() {
	if d.done {
		return
	}
	d.done = true
	removeAll(d.Path)
	d.lock.Close()
}

func free(path string, replace bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("create %s: %w", path, err)
	case replace && info.Mode().IsRegular():
		return nil
	}
	return exists(path)
}

func exists(path string) error {
	return fmt.Errorf("create %s: %w: remove it or choose another name", path, ErrExists)
}

func finish(move func(from, to string) error, from, to string) error {
	if err := move(from, to); errors.Is(err, os.ErrExist) {
		return exists(to)
	} else if err != nil {
		return fmt.Errorf("create %s: %w", to, err)
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
