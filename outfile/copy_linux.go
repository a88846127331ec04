package outfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopyData copies a file into another from an offset on, in the kernel where it
// can. Holes are left out: the other file is new and has zeros there. It
// returns how many bytes the file has, holes included.
func CopyData(ctx context.Context, to *os.File, offset int64, from *os.File) (int64, error) {
	const most = 64 << 20 // at a time
	info, err := from.Stat()
	if err != nil {
		return 0, err
	}
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		hole := info.Size()
		if err == nil {
			hole, err = unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		} else if errors.Is(err, unix.EINVAL) { // a file system that knows no holes
			data, err = at, nil
		}
		if err != nil {
			return 0, fmt.Errorf("find data of %s: %w", from.Name(), err)
		}
		if at = data; at >= info.Size() {
			break
		}
		n := min(hole, at+most, info.Size()) - at
		if _, err := from.Seek(at, io.SeekStart); err != nil {
			return 0, err
		}
		if _, err := to.Seek(offset+at, io.SeekStart); err != nil {
			return 0, err
		}
		if _, err := io.CopyN(to, from, n); err != nil {
			return 0, err
		}
		at += n
	}
	after, err := from.Stat()
	if err == nil && after.Size() != info.Size() {
		err = fmt.Errorf("%s changed its size while it was read", from.Name())
	}
	return info.Size(), err
}
