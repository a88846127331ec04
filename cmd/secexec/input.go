package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/secexec/secexec/secret"
)

// openInput opens what the owner hands in. It never waits: a named pipe that
// nobody writes to reads as empty, one with a writer waits for its bytes.
func openInput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// openRegular opens a file whose size counts.
func openRegular(path string) (*os.File, int64, error) {
	f, err := openInput(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// readSmall reads a file of at most limit bytes, also from a pipe.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := openInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, limit)
}

func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes: it is something else", name, limit)
	}
	return data, nil
}

// readKey reads a key file of exactly this many bytes.
func readKey(path string, size int) (secret.Bytes, error) {
	f, err := openInput(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	key := make(secret.Bytes, size+1)
	n, err := io.ReadFull(f, key)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("read key: %w", err)
	case n > size:
		err = fmt.Errorf("read key %s: it has more than %d bytes", path, size)
	case n < size:
		err = fmt.Errorf("read key %s: it has %d bytes, wants %d", path, n, size)
	default:
		return key[:size], nil
	}
	key.Wipe()
	return nil, err
}
