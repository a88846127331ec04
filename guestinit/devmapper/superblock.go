package devmapper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// SuperblockSize is how much of a disk's dm-integrity superblock has fields, in
// bytes (struct superblock in the kernel's dm-integrity.c).
const SuperblockSize = 64

// CheckSuperblock compares a disk's superblock with the sealed layout, byte by
// byte, before the kernel gets to see it. What Verify learns from the kernel
// can't replace that: Linux 6.12 crashes on the flag of a dirty bitmap, and of
// a superblock of zeros makes an empty journal. The amount of data is left out,
// since the kernel counts it anew and writes it down; so is the size of a
// bitmap's parts, which no journal has.
func (i Integrity) CheckSuperblock(b []byte) error {
	const (
		atData, atBitmap = 16, 29
		journalBlock     = 8                 // sectors of 512 bytes with a section's entries
		inSection        = 32 * 8            // and with their data
		version, padding = 4, uint32(1) << 3 // fix_padding, which version 4 brought
	)
	if len(b) != SuperblockSize {
		return fmt.Errorf("%w: superblock of %d bytes", ErrDiffers, len(b))
	}
	le := binary.LittleEndian
	want := make([]byte, SuperblockSize)
	copy(want, "integrt\x00")
	want[8], want[9] = version, byte(bits.TrailingZeros32(i.InterleaveSectors))
	le.PutUint16(want[10:], uint16(i.TagSize))
	le.PutUint32(want[12:], i.JournalSectors/(journalBlock+inSection))
	le.PutUint64(want[atData:], le.Uint64(b[atData:]))
	le.PutUint32(want[24:], padding)
	want[28], want[atBitmap] = byte(bits.TrailingZeros64(i.SectorSize/sectorSize)), b[atBitmap]
	if !bytes.Equal(b, want) {
		return fmt.Errorf("%w: superblock %x, wants %x", ErrDiffers, b, want)
	}
	return nil
}
