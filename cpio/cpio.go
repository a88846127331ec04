// Package cpio writes and reads "newc" archives: what the kernel unpacks as
// its initrd, and what RPM packages carry.
//
// The format is the one of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst: for each member a
// header of "070701" and 13 fields of 8 hexadecimal digits, the name with a
// NUL, the content; name and content are padded to 4 bytes with zeros. In the
// end comes a member of the name TRAILER!!!.
package cpio

import (
	"errors"
	"fmt"
)

// File types of a mode, as in stat(2).
const (
	TypeMask = 0o170000
	Regular  = 0o100000
	Folder   = 0o040000
	Symlink  = 0o120000
)

const (
	magic       = "070701"
	fields      = 13
	headerSize  = len(magic) + 8*fields
	trailer     = "TRAILER!!!"
	archiveUnit = 512 // an archive's length is a multiple of it, as GNU cpio has it
)

// maxName bounds a member's name, in bytes with its NUL: PATH_MAX, where the
// kernel gives up.
const maxName = 4096

// ErrFormat is wrapped by errors about bytes that are no newc archive.
var ErrFormat = errors.New("not a newc archive")

// Header describes a member. Its fields stand in the archive's order.
type Header struct {
	Inode        uint32
	Mode         uint32 // type and permissions
	UID, GID     uint32
	Links        uint32
	MTime        uint32 // seconds since 1970
	Size         uint32 // bytes of content
	Major, Minor uint32 // of the device the file was on
	NodeMajor    uint32 // of a device node
	NodeMinor    uint32
	Name         string // no NUL in it, at most 4095 bytes
}

// append appends the header's form in the archive, without padding.
func (h *Header) append(b []byte) []byte {
	b = fmt.Appendf(b, magic+"%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		h.Inode, h.Mode, h.UID, h.GID, h.Links, h.MTime, h.Size, h.Major, h.Minor, h.NodeMajor, h.NodeMinor,
		len(h.Name)+1, 0 /* check: always zero with this magic */)
	b = append(b, h.Name...)
	return append(b, 0)
}

// padding is how many bytes lie between n and the next multiple of 4.
func padding(n int64) int64 { return -n & 3 }
