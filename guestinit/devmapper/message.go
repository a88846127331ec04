// Package devmapper makes devices of one target each by ioctls on the
// device-mapper's control node (linux/dm-ioctl.h, interface version 4).
package devmapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of the kernel's structs in bytes, the same on 64-bit machines.
const (
	headerSize = 312 // struct dm_ioctl, its 7 data bytes and padding included
	targetSize = 40  // struct dm_target_spec
	nameSize   = 128
	typeSize   = 16
	sectorSize = 512 // device-mapper counts in these, whatever dm-crypt's own
)

// Flags of struct dm_ioctl.
const (
	flagReadOnly    = 1 << 0
	flagSuspend     = 1 << 1
	flagStatusTable = 1 << 4 // the table itself, not the status
	flagBufferFull  = 1 << 8
	flagInactive    = 1 << 12 // of the table that is loaded and not yet active
)

// Target is what a device maps its sectors to.
type Target interface {
	// Table returns the kind as the kernel registers it, the parameters, and how
	// many sectors of 512 bytes the target gives. An error wraps ErrTable.
	Table() (kind, params string, sectors uint64, err error)
}

// Verifier is a Target that depends on what lies on the disk. Its device is not
// activated unless the kernel says what was wanted.
type Verifier interface {
	// Verify gets the kernel's own table of the target and its status, once it is
	// loaded and before a sector of it can be read. An error wraps ErrDiffers.
	Verify(table, status string) error
}

// ErrDiffers says that a disk makes a target different from what was wanted.
var ErrDiffers = errors.New("the kernel made another device of the disk than was wanted")

// ErrTable says that a device holds what no table can.
var ErrTable = errors.New("invalid device-mapper table")

// message returns a struct dm_ioctl with room for data after it.
func message(order binary.ByteOrder, name string, flags uint32, data int) []byte {
	b := make([]byte, headerSize+data)
	order.PutUint32(b[0:], 4) // version 4.0.0: any 4.x kernel takes it
	order.PutUint32(b[12:], uint32(len(b)))
	order.PutUint32(b[16:], headerSize)
	order.PutUint32(b[28:], flags)
	copy(b[48:48+nameSize-1], name)
	return b
}

// tableMessage returns the message that loads a device's table.
func tableMessage(order binary.ByteOrder, name string, readOnly bool, t Target) ([]byte, error) {
	if name == "" || len(name) >= nameSize {
		return nil, fmt.Errorf("%w: name of %d bytes", ErrTable, len(name))
	}
	kind, params, sectors, err := t.Table()
	if err != nil {
		return nil, err
	}
	var flags uint32
	if readOnly {
		flags = flagReadOnly
	}
	spec := (targetSize + len(params) + 1 + 7) &^ 7
	b := message(order, name, flags, spec)
	order.PutUint32(b[20:], 1) // one target
	out := b[headerSize:]
	order.PutUint64(out[0:], 0)
	order.PutUint64(out[8:], sectors)
	order.PutUint32(out[20:], uint32(spec))
	copy(out[24:24+typeSize], kind)
	copy(out[targetSize:], params)
	return b, nil
}

// statusText returns what the kernel says of a device's one target, in a message
// that it filled in.
func statusText(order binary.ByteOrder, b []byte) (string, error) {
	start := order.Uint32(b[16:])
	switch {
	case order.Uint32(b[28:])&flagBufferFull != 0 || order.Uint32(b[20:]) != 1 || start < headerSize || uint64(start)+targetSize > uint64(len(b)):
		return "", fmt.Errorf("%w: it has no single target", ErrDiffers)
	}
	text, _, ended := bytes.Cut(b[start+targetSize:], []byte{0})
	if !ended {
		return "", fmt.Errorf("%w: its status has no end", ErrDiffers)
	}
	return string(text), nil
}

// device returns the number in a message that the kernel filled in, as
// new_encode_dev in linux/kdev_t.h packs it.
func device(order binary.ByteOrder, b []byte) (major, minor uint32) {
	dev := order.Uint64(b[40:])
	return uint32(dev&0xfff00) >> 8, uint32(dev&0xff) | uint32(dev>>12)&0xfff00
}
