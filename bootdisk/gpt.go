package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// BlockSize is the disk's block size in bytes, the only one that this package
// writes and reads.
const BlockSize = 512

// Layout of a GUID partition table (UEFI 2.10, chapter 5), in blocks and bytes.
const (
	gptHeaderBlock = 1
	gptEntryBlock  = 2
	gptEntries     = 128
	gptEntrySize   = 128
	gptTableBlocks = gptEntries * gptEntrySize / BlockSize
	gptFirstUsable = gptEntryBlock + gptTableBlocks // 34
	gptHeaderSize  = 92
	gptNameUnits   = 36
	gptRevision    = 0x10000
)

const gptSignature = "EFI PART"

// MBR partition table: offset of its first entry, and the type of the one that
// protects a GPT.
const (
	mbrTable      = 0x1be
	mbrProtective = 0xee
)

// ErrTable is wrapped by every error about a partition table's bytes.
var ErrTable = errors.New("invalid partition table")

// Partition is a row of the partition table.
type Partition struct {
	Type, ID GUID
	Name     string // at most 36 UTF-16 units
	Start    int64  // bytes from the disk's start
	Size     int64  // bytes
}

// Table is a GUID partition table.
type Table struct {
	DiskID     GUID
	Size       int64       // bytes of the disk
	Partitions []Partition // in the order of their numbers
}

// marshal returns the table's two copies: the blocks from block 1 on, and those
// that end the disk.
func (t *Table) marshal() (front, back []byte) {
	le := binary.LittleEndian
	entries := make([]byte, gptEntries*gptEntrySize)
	for i, p := range t.Partitions {
		e := entries[i*gptEntrySize:]
		kind, id := p.Type.swap(), p.ID.swap()
		copy(e[0:], kind[:])
		copy(e[16:], id[:])
		le.PutUint64(e[32:], uint64(p.Start/BlockSize))
		le.PutUint64(e[40:], uint64((p.Start+p.Size)/BlockSize-1)) // the last block, not the one after it
		for j, u := range utf16.Encode([]rune(p.Name)) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	last := uint64(t.Size/BlockSize - 1)
	header := func(self, other, table uint64) []byte {
		h := make([]byte, BlockSize)
		copy(h, gptSignature)
		le.PutUint32(h[8:], gptRevision)
		le.PutUint32(h[12:], gptHeaderSize)
		le.PutUint64(h[24:], self)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], gptFirstUsable)
		le.PutUint64(h[48:], last-gptTableBlocks-1)
		disk := t.DiskID.swap()
		copy(h[56:], disk[:])
		le.PutUint64(h[72:], table)
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
		return h
	}
	front = append(header(gptHeaderBlock, last, gptEntryBlock), entries...)
	back = append(entries[:len(entries):len(entries)], header(last, gptHeaderBlock, last-gptTableBlocks)...)
	return front, back
}

// protective returns the end of block 0, from mbrTable on: the MBR's partition
// table with one entry over the whole disk, so that old tools see no free space.
func protective(size int64) []byte {
	e := make([]byte, BlockSize-mbrTable)
	copy(e, []byte{0, 0, 2, 0, mbrProtective, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], gptHeaderBlock)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(size/BlockSize-1, 0xffffffff)))
	e[len(e)-2], e[len(e)-1] = 0x55, 0xaa
	return e
}

// Write writes both copies of the table to a disk, and the MBR that protects
// it. It leaves a boot record as it is, and checks nothing.
func (t *Table) Write(disk io.WriterAt) error {
	front, back := t.marshal()
	for _, part := range []struct {
		at   int64
		data []byte
	}{{mbrTable, protective(t.Size)}, {gptHeaderBlock * BlockSize, front}, {t.Size - int64(len(back)), back}} {
		if _, err := disk.WriteAt(part.data, part.at); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}

// ReadTable reads the first copy of a disk's partition table, strictly: checksums
// must hold, partitions must lie in the disk, apart from each other, and have
// GUIDs of their own.
func ReadTable(r io.ReaderAt, size int64) (*Table, error) {
	le := binary.LittleEndian
	front := make([]byte, BlockSize*(1+gptTableBlocks))
	if _, err := r.ReadAt(front, gptHeaderBlock*BlockSize); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	h, entries := front[:BlockSize], front[BlockSize:]
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	switch {
	case string(h[:8]) != gptSignature:
		return nil, fmt.Errorf("%w: no %q in block 1", ErrTable, gptSignature)
	case le.Uint32(h[12:]) != gptHeaderSize || le.Uint32(h[80:]) != gptEntries || le.Uint32(h[84:]) != gptEntrySize || le.Uint64(h[72:]) != gptEntryBlock:
		return nil, fmt.Errorf("%w: not %d entries of %d bytes from block %d on", ErrTable, gptEntries, gptEntrySize, gptEntryBlock)
	case crc32.ChecksumIEEE(h[:gptHeaderSize]) != sum || crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]):
		return nil, fmt.Errorf("%w: checksum", ErrTable)
	}
	t := &Table{DiskID: GUID(h[56:72]).swap(), Size: size}
	for ; len(entries) > 0; entries = entries[gptEntrySize:] {
		e := entries[:gptEntrySize]
		if GUID(e[:16]) == (GUID{}) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first < gptFirstUsable || last < first || last >= uint64(size/BlockSize) {
			return nil, fmt.Errorf("%w: partition from block %d to %d", ErrTable, first, last)
		}
		p := Partition{Type: GUID(e[:16]).swap(), ID: GUID(e[16:32]).swap(), Start: int64(first) * BlockSize, Size: int64(last-first+1) * BlockSize}
		var units []uint16
		for j := range gptNameUnits {
			if u := le.Uint16(e[56+2*j:]); u != 0 {
				units = append(units, u)
			}
		}
		p.Name = string(utf16.Decode(units))
		for _, q := range t.Partitions {
			switch {
			case p.Start < q.Start+q.Size && q.Start < p.Start+p.Size:
				return nil, fmt.Errorf("%w: partitions %s and %s overlap", ErrTable, p.ID, q.ID)
			case p.ID == q.ID:
				return nil, fmt.Errorf("%w: two partitions have the GUID %s", ErrTable, p.ID)
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}
