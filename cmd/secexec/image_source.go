package main

import (
	"context"
	"fmt"
	"os"

	"github.com/secexec/secexec/seimage"
)

// openSource opens a kernel or an initrd: a regular file, a named pipe, or "-"
// for standard input. When ctx ends, reading ends.
func openSource(ctx context.Context, path string) (seimage.Source, func(), error) {
	f, err := openFile(ctx, path)
	if err != nil {
		return seimage.Source{}, nil, err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	done := func() { stop(); f.Close() }
	info, err := f.Stat()
	if err != nil {
		done()
		return seimage.Source{}, nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		if path == "-" {
			// Opened anew, so it stands at its start, whatever was read before.
			path = "standard input"
		}
		if info.Size() == 0 {
			done()
			return seimage.Source{}, nil, fmt.Errorf("%s is empty", path)
		}
		return seimage.Source{R: f, Size: info.Size()}, done, nil
	case mode&os.ModeNamedPipe != 0:
		return seimage.Source{R: f, Size: seimage.Unsized}, done, nil
	}
	done()
	return seimage.Source{}, nil, fmt.Errorf("%s is no regular file and no pipe", path)
}

// openFile opens without outliving ctx: opening a named pipe waits for its
// writer, who may be slower than we are.
func openFile(ctx context.Context, path string) (*os.File, error) {
	if path == "-" {
		path = "/proc/self/fd/0" // so that Go can end a read of it
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&(os.ModeDevice|os.ModeSocket) != 0 {
		return nil, fmt.Errorf("%s is no regular file and no pipe", path)
	}
	type opened struct {
		f   *os.File
		err error
	}
	result := make(chan opened, 1)
	go func() {
		f, err := os.Open(path)
		result <- opened{f, err}
	}()
	select {
	case r := <-result:
		return r.f, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
