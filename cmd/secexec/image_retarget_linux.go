package main

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile keeps a second retarget away from the file until it is closed.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another secexec is changing it: try again when it is done")
	}
	return err
}

// cloneFile gives an empty file the bytes of another: by sharing its blocks
// where the file system can, else by copying them in the kernel.
func cloneFile(ctx context.Context, to, from *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err == nil {
		return nil
	}
	const step = 64 << 20
	for done := int64(0); done < size; done += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, min(step, size-done)); err != nil {
			return err
		}
	}
	return nil
}
