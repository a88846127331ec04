package ultravisor

import (
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/seimage"
)

// Memory is guest absolute memory: offsets are addresses.
type Memory interface {
	io.ReaderAt
	io.WriterAt
}

// RAM is guest memory in a slice, such as a mapping that QEMU shares.
type RAM []byte

// ReadAt implements io.ReaderAt.
func (m RAM) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt. A write that reaches beyond the memory's end
// writes nothing.
func (m RAM) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at > int64(len(m)) || int64(len(b)) > int64(len(m))-at {
		return 0, fmt.Errorf("write at guest address 0x%x: %w", at, io.ErrShortWrite)
	}
	return copy(m[at:], b), nil
}

// readRange reads all of b from an address, or fails.
func readRange(mem io.ReaderAt, b []byte, addr uint64) error {
	n, err := mem.ReadAt(b, int64(addr)) // beyond 2^63 it is negative, which ReadAt refuses
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at guest address 0x%x: %w", addr, err)
}

// chunkSize bounds what is held of a component at a time, in bytes. A multiple
// of the page size.
const chunkSize = 256 << 10

// eachChunk reads a component in chunks of whole pages.
func eachChunk(mem io.ReaderAt, c seimage.IPIBComponent, do func(pages []byte, offset uint64) error) error {
	buf := make([]byte, min(chunkSize, c.Size))
	for offset := uint64(0); offset < c.Size; offset += uint64(len(buf)) {
		b := buf[:min(uint64(len(buf)), c.Size-offset)]
		if err := readRange(mem, b, c.Addr+offset); err != nil {
			return err
		}
		if err := do(b, offset); err != nil {
			return err
		}
	}
	return nil
}
