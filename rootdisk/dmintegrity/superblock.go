package dmintegrity

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// The superblock's fields, little-endian, and their offsets (struct superblock).
const (
	sbMagic      = "integrt\x00"
	sbVersion    = 8  // u8
	sbInterleave = 9  // u8, logarithm of units
	sbTagSize    = 10 // u16
	sbSections   = 12 // u32
	sbProvided   = 16 // u64, units
	sbFlags      = 24 // u32
	sbBlock      = 28 // u8, logarithm of units in a sector
	sbBitmap     = 29 // u8, logarithm of sectors in a bit of the bitmap mode, which is not in use
	sbUsed       = 64 // the rest is zero

	version4       = 4 // the first with fix_padding
	flagFixPadding = 1 << 3
)

// Superblock returns a device's superblock.
func (l *Layout) Superblock() []byte {
	b := make([]byte, superblock)
	le := binary.LittleEndian
	copy(b, sbMagic)
	b[sbVersion] = version4
	b[sbInterleave] = log2(InterleaveSectors)
	le.PutUint16(b[sbTagSize:], TagSize)
	le.PutUint32(b[sbSections:], uint32(l.Sections))
	le.PutUint64(b[sbProvided:], uint64(l.Provided/unit))
	le.PutUint32(b[sbFlags:], flagFixPadding)
	b[sbBlock] = log2(SectorSize / unit)
	b[sbBitmap] = l.bitmapShift()
	return b
}

// bitmapShift is what dm-integrity notes for its bitmap mode: 16 MiB a bit, or
// as much as makes the bits fit the journal.
func (l *Layout) bitmapShift() byte {
	shift, room := log2(InterleaveSectors), uint64(l.JournalSectors())*unit*8
	for room < (uint64(l.Provided/unit)+1<<shift-1)>>shift {
		shift++
	}
	return shift - log2(SectorSize/unit)
}

func log2(n uint) byte { return byte(bits.TrailingZeros(n)) }

// Read reads the superblock at the start of r, a device of this size, and
// refuses what Plan does not make.
func Read(r io.ReaderAt, size int64) (Layout, error) {
	b := make([]byte, sbUsed)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return Layout{}, fmt.Errorf("%w: it ends early: %w", ErrDevice, err)
	}
	le := binary.LittleEndian
	switch flags := le.Uint32(b[sbFlags:]); {
	case string(b[:len(sbMagic)]) != sbMagic:
		return Layout{}, fmt.Errorf("%w: it has no superblock", ErrDevice)
	case b[sbVersion] != version4 || flags != flagFixPadding:
		return Layout{}, fmt.Errorf("%w: version %d with flags %#x, wants %d with %#x", ErrDevice, b[sbVersion], flags, version4, flagFixPadding)
	case b[sbInterleave] != log2(InterleaveSectors) || le.Uint16(b[sbTagSize:]) != TagSize || b[sbBlock] != log2(SectorSize/unit):
		return Layout{}, fmt.Errorf("%w: tags of %d bytes for sectors of 2^%d, interleaved by 2^%d sectors", ErrDevice, le.Uint16(b[sbTagSize:]), 9+b[sbBlock], b[sbInterleave])
	}
	sections, provided := le.Uint32(b[sbSections:]), le.Uint64(b[sbProvided:])
	if sections > maxSections || provided > maxData/unit || provided%(SectorSize/unit) != 0 {
		return Layout{}, fmt.Errorf("%w: %d journal sections and %d sectors of data", ErrDevice, sections, provided)
	}
	l := Layout{Size: size, Provided: int64(provided) * unit, Sections: int(sections)}
	return l, l.check()
}
