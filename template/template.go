// Package template is the form in which the empty file system of a volume with
// a fresh key travels in the initrd: its blocks that matter, and nothing of the
// others.
//
// A volume whose key is made at each boot reads as noise, so all that the file
// system reads before it writes it must be in the template, zeros too.
//
// The encoding is big-endian, bounded and canonical (docs/formats/template.md):
//
//	magic  8    "SxEmpty1"
//	size   u64  bytes of the volume
//	runs   u32  how many follow
//	run:   offset u64, length u32, that many bytes
package template

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic      = "SxEmpty1"
	header     = len(magic) + 8 + 4
	runHeader  = 8 + 4
	BlockSize  = 4096    // bytes; offsets and lengths are multiples
	MaxEncoded = 8 << 20 // bytes of an encoded template
	maxSize    = 1 << 62
)

// ErrInvalid is wrapped by every error about a template's bytes or values.
var ErrInvalid = errors.New("invalid file system template")

// Template is an empty file system.
type Template struct {
	Size uint64 // bytes of the volume that it is made for
	Runs []Run  // in order, with a gap between each two
}

// Run is a stretch of bytes of the file system.
type Run struct {
	Offset uint64 // bytes from the volume's start
	Data   []byte
}

func (t *Template) check() error {
	if t.Size == 0 || t.Size%BlockSize != 0 || t.Size > maxSize {
		return fmt.Errorf("%w: size %d is no multiple of %d up to 2^62", ErrInvalid, t.Size, BlockSize)
	}
	end, n := uint64(0), header
	for i, r := range t.Runs {
		length := uint64(len(r.Data))
		switch {
		case length == 0 || length%BlockSize != 0 || r.Offset%BlockSize != 0:
			return fmt.Errorf("%w: run of %d bytes at %d is not one of blocks of %d", ErrInvalid, length, r.Offset, BlockSize)
		case i > 0 && r.Offset <= end:
			return fmt.Errorf("%w: run at %d is not behind the one before, which ends at %d, with a gap", ErrInvalid, r.Offset, end)
		case r.Offset > t.Size || length > t.Size-r.Offset:
			return fmt.Errorf("%w: run of %d bytes at %d in a volume of %d", ErrInvalid, length, r.Offset, t.Size)
		}
		end = r.Offset + length
		if n += runHeader + len(r.Data); n > MaxEncoded {
			return fmt.Errorf("%w: more than %d bytes encoded", ErrInvalid, MaxEncoded)
		}
	}
	if len(t.Runs) == 0 {
		return fmt.Errorf("%w: it holds nothing", ErrInvalid)
	}
	return nil
}

// Marshal returns the template's one encoding.
func (t *Template) Marshal() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	b := be.AppendUint64([]byte(magic), t.Size)
	b = be.AppendUint32(b, uint32(len(t.Runs)))
	for _, r := range t.Runs {
		b = be.AppendUint64(b, r.Offset)
		b = be.AppendUint32(b, uint32(len(r.Data)))
		b = append(b, r.Data...)
	}
	return b, nil
}

// Parse parses an encoded template. The result's runs are parts of b.
func Parse(b []byte) (*Template, error) {
	be := binary.BigEndian
	switch {
	case len(b) > MaxEncoded:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(b), MaxEncoded)
	case len(b) < header || string(b[:len(magic)]) != magic:
		return nil, fmt.Errorf("%w: no magic %q", ErrInvalid, magic)
	}
	t := &Template{Size: be.Uint64(b[len(magic):])}
	runs := be.Uint32(b[len(magic)+8:])
	b = b[header:]
	if int64(runs) > int64(len(b)/(runHeader+BlockSize)) {
		return nil, fmt.Errorf("%w: it ends within %d runs", ErrInvalid, runs)
	}
	t.Runs = make([]Run, runs)
	for i := range t.Runs {
		if len(b) < runHeader {
			return nil, fmt.Errorf("%w: it ends within run %d", ErrInvalid, i)
		}
		offset, length := be.Uint64(b), be.Uint32(b[8:])
		b = b[runHeader:]
		if int64(length) > int64(len(b)) {
			return nil, fmt.Errorf("%w: it ends within run %d", ErrInvalid, i)
		}
		t.Runs[i] = Run{offset, b[:length:length]}
		b = b[length:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last run", ErrInvalid, len(b))
	}
	return t, t.check()
}

// Apply writes the file system to a volume of the template's size.
func (t *Template) Apply(w io.WriterAt) error {
	for _, r := range t.Runs {
		if _, err := w.WriteAt(r.Data, int64(r.Offset)); err != nil {
			return fmt.Errorf("write empty file system: %w", err)
		}
	}
	return nil
}
