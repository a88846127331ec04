package blockdev

import (
	"encoding/binary"
	"io"
)

// Layout of a GUID partition table (UEFI 2.10, chapter 5), little-endian: the
// header in block 1, and within it.
const (
	gptSignature  = "EFI PART"
	gptHeaderSize = 92
	gptEntriesAt  = 72 // block of the first entry, u64
	gptCountAt    = 80 // number of entries, u32
	gptSizeAt     = 84 // size of an entry in bytes, u32
	gptMaxTable   = 64 << 10
)

// findGUID returns the numbers, from 1 on, of the partitions that have a GUID.
// blockSize is the disk's, in bytes. What is no table has none: nothing here is
// trusted, so neither are checksums.
func findGUID(r io.ReaderAt, blockSize int, id [16]byte) (numbers []int) {
	le := binary.LittleEndian
	if blockSize < 512 || blockSize > 64<<10 {
		return nil
	}
	header := make([]byte, gptHeaderSize)
	if _, err := r.ReadAt(header, int64(blockSize)); err != nil || string(header[:8]) != gptSignature {
		return nil
	}
	at, count, size := le.Uint64(header[gptEntriesAt:]), uint64(le.Uint32(header[gptCountAt:])), uint64(le.Uint32(header[gptSizeAt:]))
	if at > 1<<40 || size < 128 || count*size > gptMaxTable {
		return nil
	}
	table := make([]byte, count*size)
	if _, err := r.ReadAt(table, int64(at)*int64(blockSize)); err != nil {
		return nil
	}
	want := id // a table has the first three groups little-endian
	want[0], want[1], want[2], want[3] = id[3], id[2], id[1], id[0]
	want[4], want[5], want[6], want[7] = id[5], id[4], id[7], id[6]
	for i := range int(count) {
		entry := table[uint64(i)*size:]
		if [16]byte(entry[:16]) != [16]byte{} && [16]byte(entry[16:32]) == want {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}
