package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Errors about what a disk's path leads to.
var (
	// ErrDisk says that the file can't be a disk at all.
	ErrDisk = errors.New("can't be a disk")
	// ErrImage says that the image is not what its format says, or that it would
	// have QEMU open further files.
	ErrImage = errors.New("image does not fit its format")
)

// CheckImage looks at an opened disk as it is to be given to QEMU, and says in
// d.Device whether it is a block device. Of a qcow2 image it reads the header: a
// guest can't write there, but whoever may write the file can, so it is called
// before each start.
func (d *Disk) CheckImage(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at disk %s: %w: %w", d.Path, ErrDisk, err)
	}
	mode := info.Mode()
	d.Device = mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	switch {
	case !mode.IsRegular() && !d.Device:
		return fmt.Errorf("disk %s %w: it is neither a regular file nor a block device", d.Path, ErrDisk)
	case d.Format == Qcow2:
		if err := checkQcow2(f); err != nil {
			return fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	return nil
}

// LooksLikeQcow2 tells whether a file starts as a qcow2 image does. It is a hint
// for whoever names no format, never a reason to open the file as one.
func LooksLikeQcow2(r io.ReaderAt) bool {
	magic := make([]byte, len(qcow2Magic))
	n, _ := r.ReadAt(magic, 0)
	return bytes.Equal(magic[:n], qcow2Magic)
}

// The qcow2 header, as docs/interop/qcow2.rst of QEMU's source describes it. All
// numbers are big-endian.
const (
	qcow2HeaderV2 = 72
	qcow2HeaderV3 = 104

	qcow2Corrupt  = 1 << 1 // incompatible features, by bit
	qcow2DataFile = 1 << 2
	qcow2Known    = 1<<5 - 1 // dirty, corrupt, data file, compression type, extended L2 entries

	maxQcow2Size = 1 << 62
)

var qcow2Magic = []byte("QFI\xfb")

// checkQcow2 refuses an image that has QEMU open another file (a backing file,
// an external data file), that wants a key, or that QEMU would not open.
func checkQcow2(r io.ReaderAt) error {
	h := make([]byte, qcow2HeaderV3)
	n, err := r.ReadAt(h, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("%w: read qcow2 header: %w", ErrImage, err)
	}
	if n < qcow2HeaderV2 || !bytes.HasPrefix(h, qcow2Magic) {
		return fmt.Errorf("%w: it does not start with a qcow2 header", ErrImage)
	}
	be := binary.BigEndian
	version, features := be.Uint32(h[4:]), uint64(0)
	switch {
	case version == 3 && n == qcow2HeaderV3:
		features = be.Uint64(h[72:])
	case version != 2:
		return fmt.Errorf("%w: it is a qcow2 image of version %d, 2 and 3 are known, or its header is cut off", ErrImage, version)
	}
	clusterBits, size := be.Uint32(h[20:]), be.Uint64(h[24:])
	switch {
	case be.Uint64(h[8:]) != 0:
		return fmt.Errorf("%w: the qcow2 image has a backing file: flatten it with qemu-img convert -O qcow2", ErrImage)
	case features&qcow2DataFile != 0:
		return fmt.Errorf("%w: the qcow2 image keeps its data in another file: flatten it with qemu-img convert -O qcow2", ErrImage)
	case be.Uint32(h[32:]) != 0:
		return fmt.Errorf("%w: the qcow2 image is encrypted by QEMU, and there is no key: the guest's own encryption is what protects", ErrImage)
	case features&qcow2Corrupt != 0:
		return fmt.Errorf("%w: the qcow2 image is marked as corrupt: repair it with qemu-img check -r all", ErrImage)
	case features&^qcow2Known != 0:
		return fmt.Errorf("%w: the qcow2 image has unknown features %#x", ErrImage, features&^qcow2Known)
	case clusterBits < 9 || clusterBits > 21 || size == 0 || size > maxQcow2Size:
		return fmt.Errorf("%w: the qcow2 header gives clusters of 2^%d bytes and a size of %d", ErrImage, clusterBits, size)
	}
	return nil
}
