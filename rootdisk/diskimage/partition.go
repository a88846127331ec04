package diskimage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Table is a partition table.
type Table struct {
	Scheme     string // gpt, dos or dasd
	Partitions []Partition
}

// Partition is a part of a disk. Start and Size are in bytes.
type Partition struct {
	Number     int
	Start      int64
	Size       int64
	Type       string // GPT type UUID, MBR type in hexadecimal, or ""
	Name       string
	FileSystem string // as FileSystem tells; filled in by Root
}

// Types of root partitions: GPT's for s390x (Discoverable Partitions
// Specification) and for any Linux data, MBR's for Linux.
const (
	typeRootS390X = "5eead9a9-fe09-4a1e-a1d7-520d00531306"
	typeLinux     = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	typeLinuxMBR  = "83"
)

// choose chooses by number, by the s390x root type, or the only partition that
// can be a root.
func (t *Table) choose(number int) (Partition, error) {
	var byType, linux []Partition
	for _, p := range t.Partitions {
		if number != 0 && p.Number == number {
			if !Mountable(p.FileSystem) {
				return p, fmt.Errorf("%w: partition %d holds %s; a root is ext4, xfs or erofs", ErrPartition, number, orNothing(p.FileSystem))
			}
			return p, nil
		}
		if !Mountable(p.FileSystem) {
			continue
		}
		if p.Type == typeRootS390X {
			byType = append(byType, p)
		}
		if p.Type == typeLinux || p.Type == typeLinuxMBR || t.Scheme == "dasd" {
			linux = append(linux, p)
		}
	}
	switch {
	case number != 0:
		return Partition{}, fmt.Errorf("%w: it has no partition %d:%s", ErrPartition, number, t.list())
	case len(byType) == 1:
		return byType[0], nil
	case len(byType) == 0 && len(linux) == 1:
		return linux[0], nil
	}
	return Partition{}, fmt.Errorf("%w: name one by --partition:%s", ErrPartition, t.list())
}

func (t *Table) list() string {
	var s strings.Builder
	for _, p := range t.Partitions {
		fmt.Fprintf(&s, "\n  %d: %d MiB, %s", p.Number, p.Size>>20, orNothing(p.FileSystem))
		if p.Name != "" {
			fmt.Fprintf(&s, ", %q", p.Name)
		}
	}
	return s.String()
}

func orNothing(fs string) string {
	if fs == "" {
		return "no known file system"
	}
	return fs
}

// Partitions reads a disk's partition table.
func Partitions(r io.ReaderAt, size int64) (*Table, error) {
	for _, sector := range []int64{512, 4096} {
		if t, err := gpt(r, size, sector); err != nil || t != nil {
			return t, err
		}
	}
	if t, err := dasd(r, size); err != nil || t != nil {
		return t, err
	}
	return mbr(r, size)
}

const (
	maxGPTEntries = 1024
	maxLogical    = 64 // of an extended partition
)

// gpt reads a GUID partition table (UEFI 2.10, section 5.3), the first copy, or
// the last sector's if that is damaged; nil if there is none.
func gpt(r io.ReaderAt, size, sector int64) (*Table, error) {
	var firstErr error
	for _, at := range []int64{sector, size/sector*sector - sector} {
		b := make([]byte, sector)
		if n, _ := r.ReadAt(b, at); at < sector || n < len(b) || string(b[:8]) != "EFI PART" {
			continue
		}
		t, err := gptCopy(r, size, sector, at, b)
		if err == nil {
			return t, nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return nil, firstErr
}

func gptCopy(r io.ReaderAt, size, sector, at int64, b []byte) (*Table, error) {
	le := binary.LittleEndian
	headSize, count, entrySize := le.Uint32(b[12:]), le.Uint32(b[80:]), le.Uint32(b[84:])
	table := le.Uint64(b[72:])
	switch {
	case headSize < 92 || int64(headSize) > sector || int64(le.Uint64(b[24:])) != at/sector:
		return nil, fmt.Errorf("%w: GPT header of %d bytes", ErrImage, headSize)
	case count > maxGPTEntries || entrySize < 128 || entrySize > 4096 || entrySize%128 != 0:
		return nil, fmt.Errorf("%w: GPT with %d entries of %d bytes", ErrImage, count, entrySize)
	case table > uint64(size/sector):
		return nil, fmt.Errorf("%w: GPT entries at sector %d", ErrImage, table)
	}
	want := le.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:headSize]) != want {
		return nil, fmt.Errorf("%w: checksum of its GPT header is wrong", ErrImage)
	}
	entries := make([]byte, count*entrySize)
	if n, err := r.ReadAt(entries, int64(table)*sector); n < len(entries) {
		return nil, fmt.Errorf("%w: GPT entries: %w", ErrImage, err)
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(b[88:]) {
		return nil, fmt.Errorf("%w: checksum of its GPT entries is wrong", ErrImage)
	}
	t := &Table{Scheme: "gpt"}
	for i := range int(count) {
		e := entries[i*int(entrySize):][:entrySize]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		var name []uint16
		for j := 56; j < 128 && le.Uint16(e[j:]) != 0; j += 2 {
			name = append(name, le.Uint16(e[j:]))
		}
		p := Partition{Number: i + 1, Type: guid(e), Name: string(utf16.Decode(name))}
		if err := p.place(le.Uint64(e[32:]), le.Uint64(e[40:]), sector, size); err != nil {
			return nil, err
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}

// place sets start and size from the first and last sector.
func (p *Partition) place(first, last uint64, sector, size int64) error {
	if first == 0 || last < first || last >= uint64(size/sector) {
		return fmt.Errorf("%w: partition %d lies in sectors %d to %d of %d", ErrImage, p.Number, first, last, size/sector)
	}
	p.Start, p.Size = int64(first)*sector, int64(last-first+1)*sector
	return nil
}

// guid prints a GUID as stored: its first three parts are little-endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// mbr reads a PC's partition table and the chain of its logical partitions.
func mbr(r io.ReaderAt, size int64) (*Table, error) {
	t := &Table{Scheme: "dos"}
	b, err := mbrSector(r, 0)
	if err != nil {
		return nil, err
	}
	var extended uint64
	for i := range 4 {
		e := b[446+16*i:][:16]
		start, count := mbrExtent(e)
		if e[0]&0x7f != 0 {
			return nil, errNoTable // a boot sector, or chance
		}
		switch kind := e[4]; {
		case kind == 0 || count == 0:
		case kind == 0x05 || kind == 0x0f || kind == 0x85:
			extended = start
		default:
			p := Partition{Number: i + 1, Type: fmt.Sprintf("%02x", kind)}
			if err := p.place(start, start+count-1, 512, size); err != nil {
				return nil, err
			}
			t.Partitions = append(t.Partitions, p)
		}
	}
	for n, at := 5, extended; at != 0; n++ {
		if n-5 >= maxLogical {
			return nil, fmt.Errorf("%w: more than %d logical partitions, or a circle of them", ErrImage, maxLogical)
		}
		if at >= uint64(size/512) {
			return nil, fmt.Errorf("%w: logical partition %d at sector %d", ErrImage, n, at)
		}
		if b, err = mbrSector(r, int64(at)*512); err != nil {
			return nil, fmt.Errorf("%w: logical partition %d: %w", ErrImage, n, err)
		}
		if start, count := mbrExtent(b[446:]); b[450] != 0 && count != 0 {
			p := Partition{Number: n, Type: fmt.Sprintf("%02x", b[450])}
			if err := p.place(at+start, at+start+count-1, 512, size); err != nil {
				return nil, err
			}
			t.Partitions = append(t.Partitions, p)
		}
		next, count := mbrExtent(b[462:])
		if count == 0 || b[466] == 0 {
			break
		}
		at = extended + next
	}
	if len(t.Partitions) == 0 {
		return nil, errNoTable
	}
	return t, nil
}

func mbrSector(r io.ReaderAt, at int64) ([]byte, error) {
	b := make([]byte, 512)
	if n, _ := r.ReadAt(b, at); n < len(b) || b[510] != 0x55 || b[511] != 0xaa {
		return nil, errNoTable
	}
	return b, nil
}

func mbrExtent(e []byte) (start, count uint64) {
	return uint64(binary.LittleEndian.Uint32(e[8:])), uint64(binary.LittleEndian.Uint32(e[12:]))
}
