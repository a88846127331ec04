package bootdisk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// The SE image's part that firmware loads, and how it starts it (zIPL's
// convention for kernels): all from 64 KiB on, to its own address. Below that
// an image has nothing that its boot loader needs. The PSW is in the short
// form: bit 12, 31-bit addressing; stage3a's entry switches to 64 bits.
const (
	entryAddr = 0x10000
	entryPSW  = 0x0008_0000_8000_0000 | entryAddr
)

// program returns the program that loads and starts an image in the file system.
// size is the image's, in bytes.
func (b *bootFS) program(ctx context.Context, name string, size int64) (Program, error) {
	runs, err := b.runs(ctx, name, size)
	if err != nil {
		return Program{}, err
	}
	return Program{[]Load{{entryAddr, fill(skip(runs, entryAddr/BlockSize))}}, entryPSW}, nil
}

// disk is a disk that is written to.
type disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// writeRecord writes the boot record: slot n is the n-th program, slot 0, the
// default, the first one. A record that is in use stays whole until the last
// write, of one block, takes its place.
func writeRecord(d disk, programs []Program) error {
	block := make([]byte, BlockSize)
	if _, err := d.ReadAt(block, 0); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	at := int64(recordBlock)
	if string(block[:4]) == zMagic && binary.BigEndian.Uint64(block[16:]) == recordBlock {
		at += recordBlocks
	}
	slots := []int{0}
	for i := range programs {
		slots = append(slots, i)
	}
	record, err := marshalRecord(programs, slots, at)
	if err != nil {
		return err
	}
	if len(record) > recordBlocks*BlockSize {
		return fmt.Errorf("%w: the images' files are in too many pieces for a boot record of %d KiB", ErrOptions, recordBlocks*BlockSize>>10)
	}
	bootBlock(block, at)
	for _, part := range []struct {
		at   int64
		data []byte
	}{{at * BlockSize, record}, {0, block}} {
		if _, err := d.WriteAt(part.data, part.at); err != nil {
			return fmt.Errorf("write boot record: %w", err)
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("write boot record: %w", err)
		}
	}
	return nil
}

// skip takes n blocks off the front of a file's runs.
func skip(runs []Run, n int64) []Run {
	for len(runs) > 0 && n >= runs[0].Blocks {
		n -= runs[0].Blocks
		runs = runs[1:]
	}
	if len(runs) == 0 || n == 0 {
		return runs
	}
	first := runs[0]
	if first.Block != 0 {
		first.Block += n
	}
	first.Blocks -= n
	return append([]Run{first}, runs[1:]...)
}

// fill has holes read from the disk's run of zeros: memory may hold anything.
func fill(runs []Run) (full []Run) {
	for _, r := range runs {
		for ; r.Block == 0 && r.Blocks > zeroBlocks; r.Blocks -= zeroBlocks {
			full = append(full, Run{zeroBlock, zeroBlocks})
		}
		if r.Block == 0 {
			r.Block = zeroBlock
		}
		full = append(full, r)
	}
	return full
}
