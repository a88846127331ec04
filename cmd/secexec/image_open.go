package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/seimage"
)

// Bounds of what is taken from a pipe, in bytes: what does not begin like an
// image is not read to its end, and no image is larger than its largest parts.
const (
	imageStart = 1 << 20
	imageLimit = seimage.MaxKernelSize + seimage.MaxInitrdSize + imageStart
)

// openImage opens an image that is only read; "-" is standard input. What comes
// through a pipe goes into a file without a name first: an image's parts are
// read in any order.
func openImage(ctx context.Context, path string) (*os.File, int64, error) {
	if path != "-" {
		// Opening a pipe would wait for its writer.
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, 0, fmt.Errorf("open image: %s is no regular file: give - and it as standard input", path)
		}
		f, size, err := openRegular(path)
		if err != nil {
			return nil, 0, fmt.Errorf("open image: %w", err)
		}
		return f, size, nil
	}
	if info, err := os.Stdin.Stat(); err == nil && info.Mode().IsRegular() {
		return os.Stdin, info.Size(), nil
	}
	f, err := os.CreateTemp("", "secexec-image-")
	if err != nil {
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	_ = os.Remove(f.Name())
	size, err := spool(ctx, f, os.Stdin)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// spool copies an image. When ctx ends it returns at once; the copying ends with
// its next write, to a closed file, or with the process.
func spool(ctx context.Context, f *os.File, r io.Reader) (int64, error) {
	type copied struct {
		n   int64
		err error
	}
	done := make(chan copied, 1)
	go func() {
		n, err := io.CopyN(f, r, imageStart)
		if err == nil {
			if _, err = seimage.OpenHeader(f, n); err == nil {
				var more int64
				more, err = io.CopyN(f, r, imageLimit-n)
				n += more
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("%w: more than %d bytes", seimage.ErrNotImage, int64(imageLimit))
		}
		done <- copied{n, err}
	}()
	select {
	case c := <-done:
		if c.err != nil {
			return 0, fmt.Errorf("read image from standard input: %w", c.err)
		}
		return c.n, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// found tells of an opened image.
func (v *volume) found(cmd *cobra.Command, path string, img *seimage.Image) {
	if v.verbose+v.older > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: SE header at 0x%x, %d bytes\n", path, img.HeaderAddr, img.Header.Size())
	}
}
