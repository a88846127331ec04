package initrd

import (
	"fmt"
	"io"
	"math"
)

// File types of a cpio mode field, as in stat(2).
const (
	regular = 0o100000
	folder  = 0o040000
)

// The archive format is "newc", as the kernel describes it in
// Documentation/driver-api/early-userspace/buffer-format.rst: for each member
// a header of "070701" and 13 fields of 8 hexadecimal digits, the name with a
// NUL, the content, each padded to 4 bytes; in the end the name TRAILER!!!.
const (
	cpioHeader = 110 // bytes
	cpioEnd    = "TRAILER!!!"
	cpioBlock  = 512 // the archive's length is a multiple of it, as GNU cpio has it
)

// cpioWriter writes an archive. Everything that would differ from build to
// build is fixed: inodes count up from 1, owner 0, time 0, device 0.
type cpioWriter struct {
	w     io.Writer
	inode uint32
	n     int64 // bytes written
}

func newCPIO(w io.Writer) *cpioWriter { return &cpioWriter{w: w} }

// add writes a member. Its folder must have been added before.
func (c *cpioWriter) add(path string, mode uint32, content []byte) error {
	if int64(len(content)) > math.MaxUint32 {
		return fmt.Errorf("%d bytes do not fit a cpio member", len(content))
	}
	links := uint32(1)
	if mode&folder != 0 {
		links = 2
	}
	c.inode++
	return c.member(path, c.inode, mode, links, content)
}

// close ends the archive, and not the writer below.
func (c *cpioWriter) close() error {
	if err := c.member(cpioEnd, 0, 0, 1, nil); err != nil {
		return err
	}
	return c.pad(cpioBlock)
}

func (c *cpioWriter) member(path string, inode, mode, links uint32, content []byte) error {
	header := fmt.Appendf(make([]byte, 0, cpioHeader+len(path)+1), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, mode, 0 /* uid */, 0 /* gid */, links, 0 /* mtime */, len(content),
		0, 0 /* device */, 0, 0 /* device of a node */, len(path)+1, 0 /* check */)
	header = append(header, path...)
	header = append(header, 0)
	if err := c.write(header); err != nil {
		return err
	}
	if err := c.pad(4); err != nil {
		return err
	}
	if err := c.write(content); err != nil {
		return err
	}
	return c.pad(4)
}

func (c *cpioWriter) write(b []byte) error {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return err
}

func (c *cpioWriter) pad(to int64) error {
	return c.write(make([]byte, (to-c.n%to)%to))
}
