package diskimage

import (
	"encoding/binary"
	"fmt"
	"io"
)

// leastSector is the size of a sealed disk's sectors: dm-crypt's. No file system
// with smaller ones mounts there.
const leastSector = 4096

// checkWhole refuses a root file system that says it has more bytes than there
// are: a copy that was cut off would mount, and fail when it runs.
func (p Partition) checkWhole(r io.ReaderAt) error {
	if has := claimed(r, p.Start, p.FileSystem); has > uint64(p.Size) {
		return fmt.Errorf("%w: its %s has %d bytes, of which %d are there: it is cut off", ErrImage, p.FileSystem, has, p.Size)
	}
	if unit := smallest(r, p.Start, p.FileSystem); unit != 0 && unit < leastSector {
		return fmt.Errorf("%w: its %s counts in %d bytes, and an encrypted disk in %d: make it anew (mkfs.ext4 -b 4096, mkfs.xfs -s size=4096)", ErrImage, p.FileSystem, unit, leastSector)
	}
	return nil
}

// smallest is the least number of bytes that a file system reads from its disk, 0
// if it can't be told: blocks of an ext4, sectors of an xfs.
func smallest(r io.ReaderAt, at int64, fileSystem string) uint32 {
	b := make([]byte, 2048)
	if n, _ := r.ReadAt(b, at); n < len(b) {
		return 0
	}
	switch fileSystem {
	case "ext4":
		if shift := binary.LittleEndian.Uint32(b[1024+0x18:]); shift <= 6 {
			return 1024 << shift
		}
	case "xfs":
		return uint32(binary.BigEndian.Uint16(b[102:]))
	}
	return 0
}

// claimed is the size in bytes that a file system's superblock names, 0 if it
// can't be told. ext4: Documentation/filesystems/ext4/super.rst; xfs: struct
// xfs_dsb; erofs: struct erofs_super_block.
func claimed(r io.ReaderAt, at int64, fileSystem string) uint64 {
	b := make([]byte, 2048)
	if n, _ := r.ReadAt(b, at); n < len(b) {
		return 0
	}
	le, be := binary.LittleEndian, binary.BigEndian
	blocks, shift := uint64(0), uint32(0)
	switch fileSystem {
	case "ext4":
		blocks, shift = uint64(le.Uint32(b[1024+4:])), 10+le.Uint32(b[1024+0x18:])
		if le.Uint32(b[1024+0x60:])&0x80 != 0 { // 64bit
			blocks |= uint64(le.Uint32(b[1024+0x150:])) << 32
		}
	case "xfs":
		blocks, shift = be.Uint64(b[8:]), uint32(b[120])
	case "erofs":
		blocks, shift = uint64(le.Uint32(b[1024+36:])), uint32(b[1024+12])
	}
	if shift > 16 || blocks > 1<<46 { // damaged: not what this is about
		return 0
	}
	return blocks << shift
}
