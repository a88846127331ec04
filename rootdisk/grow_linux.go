package rootdisk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/rootdisk/luks2"
)

// ErrBusy says that another process, such as QEMU, uses a disk.
var ErrBusy = errors.New("disk is in use")

// Grow makes a raw disk size bytes large and its LUKS2 header say so; the new
// part is a hole. It returns the payload's size in bytes. After an error the
// disk is as it was. The disk is open for reading and writing.
func Grow(disk *os.File, size int64) (int64, error) {
	h, err := luks2.Parse(disk)
	if err != nil {
		return 0, err
	}
	if err := h.Growable(); err != nil {
		return 0, err
	}
	// QEMU's locks are of this kind: a shared one on the byte for each thing
	// that it does.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(disk.Fd(), unix.F_OFD_SETLK, &lock); errors.Is(err, unix.EAGAIN) {
		return 0, fmt.Errorf("%w: stop its guest first", ErrBusy)
	} else if err != nil {
		return 0, fmt.Errorf("lock disk: %w", err)
	}
	info, err := disk.Stat()
	if err != nil {
		return 0, err
	}
	payload := (size - h.Offset) / int64(h.Sector) * int64(h.Sector)
	switch {
	case size%cryptSector != 0:
		return 0, fmt.Errorf("%w: %d bytes are no multiple of %d", ErrOptions, size, cryptSector)
	case size < info.Size() || payload < h.Payload:
		return 0, fmt.Errorf("%w: it has %d bytes already, and a disk does not shrink", ErrOptions, info.Size())
	}
	if err := disk.Truncate(size); err != nil {
		return 0, fmt.Errorf("grow disk: %w", err)
	}
	if err := errors.Join(disk.Sync(), luks2.SetPayload(disk, payload)); err != nil {
		return 0, errors.Join(fmt.Errorf("grow disk: %w", err), shrinkBack(disk, info.Size()))
	}
	return payload, nil
}

// shrinkBack takes the new part away again, unless a copy of the header counts
// on it.
func shrinkBack(disk *os.File, size int64) error {
	h, err := luks2.Parse(disk)
	if err != nil || h.Offset+h.Payload > size {
		return err
	}
	return disk.Truncate(size)
}
