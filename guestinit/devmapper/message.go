// Package devmapper makes one dm-crypt device by ioctls on the device-mapper's
// control node (linux/dm-ioctl.h, interface version 4).
package devmapper

import (
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
	flagReadOnly = 1 << 0
	flagSuspend  = 1 << 1
)

// Crypt is a dm-crypt device.
type Crypt struct {
	Name           string // of the mapping
	Cipher         string // such as aes-xts-plain64
	KeySize        int    // bytes
	KeyDescription string // of the logon key in the kernel's keyring
	Major, Minor   uint32 // of the encrypted disk
	Offset         uint64 // bytes from its start to the payload
	Size           uint64 // bytes of payload
	SectorSize     uint64 // dm-crypt's unit of encryption in bytes
	ReadOnly       bool
}

// ErrCrypt says that a Crypt holds what no table can.
var ErrCrypt = errors.New("invalid dm-crypt device")

// params returns the target's parameters (Linux, Documentation/admin-guide/
// device-mapper/dm-crypt.rst). The IV counts 512-byte sectors from 0 on, as in
// a LUKS2 segment with iv_tweak 0: no iv_large_sectors.
func (c *Crypt) params() (string, error) {
	switch {
	case c.Name == "" || len(c.Name) >= nameSize:
		return "", fmt.Errorf("%w: name of %d bytes", ErrCrypt, len(c.Name))
	case c.Offset%sectorSize != 0 || c.Size%c.SectorSize != 0 || c.Size == 0:
		return "", fmt.Errorf("%w: payload at %d of %d bytes", ErrCrypt, c.Offset, c.Size)
	}
	return fmt.Sprintf("%s :%d:logon:%s 0 %d:%d %d 1 sector_size:%d",
		c.Cipher, c.KeySize, c.KeyDescription, c.Major, c.Minor, c.Offset/sectorSize, c.SectorSize), nil
}

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

// tableMessage returns the message that loads the device's table.
func tableMessage(order binary.ByteOrder, c *Crypt) ([]byte, error) {
	params, err := c.params()
	if err != nil {
		return nil, err
	}
	spec := (targetSize + len(params) + 1 + 7) &^ 7
	b := message(order, c.Name, c.flags(), spec)
	order.PutUint32(b[20:], 1) // one target
	t := b[headerSize:]
	order.PutUint64(t[0:], 0)
	order.PutUint64(t[8:], c.Size/sectorSize)
	order.PutUint32(t[20:], uint32(spec))
	copy(t[24:24+typeSize], "crypt")
	copy(t[targetSize:], params)
	return b, nil
}

func (c *Crypt) flags() uint32 {
	if c.ReadOnly {
		return flagReadOnly
	}
	return 0
}

// device returns the number in a message that the kernel filled in, as
// new_encode_dev in linux/kdev_t.h packs it.
func device(order binary.ByteOrder, b []byte) (major, minor uint32) {
	dev := order.Uint64(b[40:])
	return uint32(dev&0xfff00) >> 8, uint32(dev&0xff) | uint32(dev>>12)&0xfff00
}
