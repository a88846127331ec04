package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// files is what a store does to its folder. A test puts a disk in its place
// whose power fails.
type files interface {
	create(path string) (file, error) // fails if it exists
	open(path string) (file, error)   // of a folder, to flush it
	rename(from, to string) error
	remove(path string) error
	removeAll(dir string) error
}

type file interface {
	io.Writer
	Sync() error
	Close() error
}

// disk is the file system.
type disk struct{}

func (disk) create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
func (disk) open(path string) (file, error) { return os.Open(path) }
func (disk) rename(from, to string) error   { return os.Rename(from, to) }
func (disk) remove(path string) error       { return os.Remove(path) }
func (disk) removeAll(dir string) error     { return os.RemoveAll(dir) }

// replace gives a file new content, which is there completely once it returns
// nil: written beside it, flushed, renamed, and the name flushed. Before that the
// old content is, whenever the power fails.
func (s *Store) replace(dir, name string, data []byte) error {
	beside := filepath.Join(dir, name+".new") // one writer at a time
	f, err := s.files.create(beside)
	if errors.Is(err, os.ErrExist) { // a crash left it
		if err = s.files.remove(beside); err == nil {
			f, err = s.files.create(beside)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = s.files.rename(beside, filepath.Join(dir, name))
	}
	if err != nil {
		_ = s.files.remove(beside)
		return err
	}
	return s.flush(dir)
}

// flush makes the names in a folder last.
func (s *Store) flush(dir string) error {
	d, err := s.files.open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
