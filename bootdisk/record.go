package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The zIPL boot record on a disk of 512-byte blocks, big-endian (s390-tools:
// zipl/src/bootmap.c, install.c; QEMU: pc-bios/s390-ccw/bootmap.c):
//
//	boot block       block 0: magic, version u32, 8 zero bytes, pointer to the program table
//	program table    magic, 12 zero bytes, 31 pointers to programs; slot 0 is the default
//	program          32 bytes header: magic, type u8; then components of 32 bytes each
//	component        pointer to its segment table, 7 zero bytes, kind u8, load address or PSW u64
//	segment table    31 pointers to runs of blocks, then a pointer to the next table or zeros
//	pointer, 16      block u64, block size u16, blocks less one u16, 4 zero bytes
const (
	zMagic         = "zIPL"
	zVersion       = 1
	pointerSize    = 16
	componentSize  = 32
	maxRun         = 1 << 16                     // blocks of one pointer
	tableRuns      = BlockSize/pointerSize - 1   // pointers of a segment table, less the last, its successor's
	maxSlots       = BlockSize/pointerSize - 1   // programs
	maxComponents  = BlockSize/componentSize - 1 // of a program, which is one block
	kindExecute    = 1
	kindLoad       = 2
	programIPL     = 0
	maxBlockNumber = 1<<31 - 1 // QEMU's firmware keeps block numbers in an int
)

// MaxEntries is how many entries a boot menu has room for: each slot but the
// default's. QEMU's loadparm goes to 30 as well.
const MaxEntries = maxSlots - 1

// ErrRecord is wrapped by every error about a boot record's bytes or values.
var ErrRecord = errors.New("invalid boot record")

// Run is a run of blocks on the disk.
type Run struct {
	Block  int64
	Blocks int64
}

// Load is a component: blocks that firmware reads one after the other to
// memory from Addr on.
type Load struct {
	Addr uint64
	Runs []Run
}

// Program is what a slot of the program table names: what to load, and the PSW
// to start with, in the short form of 64 bits.
type Program struct {
	Loads []Load
	PSW   uint64
}

// marshalRecord returns the record's blocks as they lie from block at on, the
// program table first. Slots may share a program.
func marshalRecord(programs []Program, slots []int, at int64) ([]byte, error) {
	if len(slots) == 0 || len(slots) > maxSlots {
		return nil, fmt.Errorf("%w: %d slots, wants 1 to %d", ErrRecord, len(slots), maxSlots)
	}
	out := make([]byte, BlockSize) // program table, filled in at the end
	next := func() int64 { return at + int64(len(out)/BlockSize) }
	places := make([]int64, len(programs))
	for i, p := range programs {
		if len(p.Loads) == 0 || len(p.Loads)+1 > maxComponents {
			return nil, fmt.Errorf("%w: %d components, wants 1 to %d", ErrRecord, len(p.Loads), maxComponents-1)
		}
		block := make([]byte, BlockSize)
		copy(block, zMagic)
		block[4] = programIPL
		for j, l := range p.Loads {
			tables, err := marshalRuns(l.Runs, next())
			if err != nil {
				return nil, err
			}
			c := block[componentSize*(1+j):]
			putPointer(c, Run{next(), 1})
			c[23] = kindLoad
			binary.BigEndian.PutUint64(c[24:], l.Addr)
			out = append(out, tables...)
		}
		c := block[componentSize*(1+len(p.Loads)):]
		c[23] = kindExecute
		binary.BigEndian.PutUint64(c[24:], p.PSW)
		places[i] = next()
		out = append(out, block...)
	}
	copy(out, zMagic)
	for i, s := range slots {
		putPointer(out[pointerSize*(1+i):], Run{places[s], 1})
	}
	return out, nil
}

// marshalRuns returns the segment tables of a component, from block at on.
func marshalRuns(runs []Run, at int64) ([]byte, error) {
	var split []Run
	for _, r := range runs {
		if r.Block <= 0 || r.Blocks <= 0 || r.Block+r.Blocks-1 > maxBlockNumber {
			return nil, fmt.Errorf("%w: %d blocks from block %d on: firmware reads 1 TiB from the disk's start", ErrRecord, r.Blocks, r.Block)
		}
		for ; r.Blocks > maxRun; r = (Run{r.Block + maxRun, r.Blocks - maxRun}) {
			split = append(split, Run{r.Block, maxRun})
		}
		split = append(split, r)
	}
	if len(split) == 0 {
		return nil, fmt.Errorf("%w: component without blocks", ErrRecord)
	}
	out := make([]byte, (len(split)+tableRuns-1)/tableRuns*BlockSize)
	for i, r := range split {
		table := out[i/tableRuns*BlockSize:]
		putPointer(table[i%tableRuns*pointerSize:], r)
		if i%tableRuns == 0 && i > 0 {
			putPointer(out[i/tableRuns*BlockSize-pointerSize:], Run{at + int64(i/tableRuns), 1})
		}
	}
	return out, nil
}

// bootBlock writes the head of block 0.
func bootBlock(block []byte, table int64) {
	copy(block, zMagic)
	binary.BigEndian.PutUint32(block[4:], zVersion)
	putPointer(block[16:], Run{table, 1})
}

func putPointer(b []byte, r Run) {
	binary.BigEndian.PutUint64(b, uint64(r.Block))
	binary.BigEndian.PutUint16(b[8:], BlockSize)
	binary.BigEndian.PutUint16(b[10:], uint16(r.Blocks-1))
}

// ReadRecord reads a disk's boot record as firmware does, strictly: the programs
// by slot; a nil program is an empty slot. size is the disk's, in bytes.
func ReadRecord(r io.ReaderAt, size int64) ([]*Program, error) {
	d := recordReader{r: r, blocks: size / BlockSize, budget: maxTables}
	block := d.read(0)
	if d.err == nil && (string(block[:4]) != zMagic || binary.BigEndian.Uint32(block[4:]) != zVersion) {
		return nil, fmt.Errorf("%w: no %q of version %d in block 0", ErrRecord, zMagic, zVersion)
	}
	table := d.follow(d.pointer(block[16:]))
	d.magic(table, "program table")
	slots := make([]*Program, maxSlots)
	for i := range slots {
		if at := table[pointerSize*(1+i):]; d.err == nil && binary.BigEndian.Uint64(at) != 0 {
			slots[i] = d.program(d.pointer(at))
		}
	}
	if d.err == nil && slots[0] == nil {
		return nil, fmt.Errorf("%w: no default program", ErrRecord)
	}
	return slots, d.err
}

// maxTables bounds the blocks that a record may make its reader read: more than
// there are before the first partition.
const maxTables = 1 << 11

// recordReader reads blocks. After the first error it gives zeros.
type recordReader struct {
	r      io.ReaderAt
	blocks int64
	budget int
	err    error
}

func (d *recordReader) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
	}
}

func (d *recordReader) read(block int64) []byte {
	b := make([]byte, BlockSize)
	if d.budget--; d.budget < 0 {
		d.fail("more than %d blocks of tables", maxTables)
	}
	if d.err != nil {
		return b
	}
	if _, err := d.r.ReadAt(b, block*BlockSize); err != nil {
		d.err = fmt.Errorf("read boot record: %w", err)
		return make([]byte, BlockSize)
	}
	return b
}

func (d *recordReader) pointer(b []byte) Run {
	block := binary.BigEndian.Uint64(b)
	run := Run{int64(block & maxBlockNumber), int64(binary.BigEndian.Uint16(b[10:])) + 1}
	switch {
	case block == 0 || block > maxBlockNumber || run.Block+run.Blocks > d.blocks:
		d.fail("pointer to %d blocks from %d on", run.Blocks, block)
	case binary.BigEndian.Uint16(b[8:]) != BlockSize:
		d.fail("block size %d is not %d", binary.BigEndian.Uint16(b[8:]), BlockSize)
	case binary.BigEndian.Uint32(b[12:]) != 0:
		d.fail("pointer with bits in its reserved bytes")
	}
	return run
}

// follow reads the one block that a pointer names.
func (d *recordReader) follow(r Run) []byte {
	if r.Blocks != 1 {
		d.fail("table of %d blocks", r.Blocks)
	}
	return d.read(r.Block)
}

func (d *recordReader) magic(b []byte, what string) {
	if string(b[:4]) != zMagic {
		d.fail("no %q in %s", zMagic, what)
	}
}

func (d *recordReader) program(at Run) *Program {
	b := d.follow(at)
	d.magic(b, "program")
	if b[4] != programIPL {
		d.fail("program of type %d", b[4])
	}
	p := &Program{}
	for i := 1; i <= maxComponents && d.err == nil; i++ {
		c := b[componentSize*i:]
		switch c[23] {
		case kindLoad:
			p.Loads = append(p.Loads, Load{binary.BigEndian.Uint64(c[24:]), d.runs(d.pointer(c))})
		case kindExecute:
			p.PSW = binary.BigEndian.Uint64(c[24:])
			if len(p.Loads) == 0 {
				d.fail("program that loads nothing")
			}
			return p
		default:
			d.fail("component of kind %d", c[23])
		}
	}
	d.fail("program without an entry")
	return p
}

func (d *recordReader) runs(at Run) (runs []Run) {
	for {
		table := d.follow(at)
		n := 0
		for ; n < tableRuns && d.err == nil && binary.BigEndian.Uint64(table[n*pointerSize:]) != 0; n++ {
			runs = append(runs, d.pointer(table[n*pointerSize:]))
		}
		last := table[tableRuns*pointerSize:]
		if n == 0 {
			d.fail("segment table without runs")
		}
		if d.err != nil || n < tableRuns || binary.BigEndian.Uint64(last) == 0 {
			return runs
		}
		at = d.pointer(last)
	}
}
