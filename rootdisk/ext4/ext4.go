// Package ext4 reads as much of an ext4 file system as its maker needs: which
// blocks are in use, and where each file's inode lies, so that owners, modes and
// times can be set in an image without mounting it. It allocates nothing; mke2fs
// does (Linux, Documentation/filesystems/ext4).
//
// All numbers on disk are little-endian. The reader is strict: what it does not
// know it refuses.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Errors.
var (
	ErrFormat      = errors.New("no valid ext4")
	ErrUnsupported = errors.New("ext4 is of a kind that this program does not read")
)

var le = binary.LittleEndian

const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xef53

	// Bounds of what is held in memory, whatever the superblock says: of 16 TiB
	// in groups of 128 MiB.
	maxGroups = 128 << 10
)

// Features.
const (
	compatJournal      = 0x4
	compatSparseSuper2 = 0x200

	incompatFiletype = 0x2
	incompatRecover  = 0x4
	incompatExtents  = 0x40
	incompat64bit    = 0x80
	incompatFlexBG   = 0x200
	incompatEAInode  = 0x400
	incompatCsumSeed = 0x2000
	incompatLargeDir = 0x4000
	knownIncompat    = incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir

	roSparseSuper                      = 0x1
	roGDTCsum                          = 0x10
	roBigalloc                         = 0x200
	roMetadataCsum                     = 0x400
	stateClean                         = 0x1
	groupInodeUninit, groupBlockUninit = 0x1, 0x2
)

// FS is a file system in an image.
type FS struct {
	r         io.ReaderAt
	blockSize int64 // bytes
	blocks    int64 // in all
	first     int64 // first data block: 1 for blocks of 1 KiB, else 0
	perGroup  int64 // blocks
	inodes    uint32
	inodesPer uint32 // inodes of a group
	inodeSize int64
	descSize  int64
	reserved  int64 // blocks after the descriptors, for growth
	backups   [2]uint32
	compat    uint32
	incompat  uint32
	ro        uint32
	seed      uint32 // of checksums
	groups    []group
}

// group is a block group's descriptor.
type group struct {
	blockBitmap, inodeBitmap, inodeTable int64 // blocks
	flags                                uint16
	bitmapSum                            uint32
}

// Open reads the superblock and the group descriptors. size is the image's.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, superSize)
	if err := readFull(r, b, superOffset); err != nil {
		return nil, err
	}
	f := &FS{r: r}
	if err := f.parseSuper(b, size); err != nil {
		return nil, err
	}
	return f, f.readGroups()
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("%w: it ends early: %w", ErrFormat, errors.Join(io.ErrUnexpectedEOF, err))
	}
	return nil
}

func (f *FS) parseSuper(b []byte, size int64) error {
	if le.Uint16(b[0x38:]) != superMagic {
		return fmt.Errorf("%w: its superblock has no magic", ErrFormat)
	}
	f.compat, f.incompat, f.ro = le.Uint32(b[0x5c:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	switch log := le.Uint32(b[0x18:]); {
	case le.Uint32(b[0x4c:]) != 1:
		return fmt.Errorf("%w: revision %d", ErrUnsupported, le.Uint32(b[0x4c:]))
	case f.incompat&incompatRecover != 0:
		return fmt.Errorf("%w: its journal is to be replayed: unmount it, or run e2fsck", ErrUnsupported)
	case f.incompat&^knownIncompat != 0:
		return fmt.Errorf("%w: incompatible features %#x", ErrUnsupported, f.incompat&^knownIncompat)
	case f.ro&roBigalloc != 0:
		return fmt.Errorf("%w: it allocates clusters (bigalloc)", ErrUnsupported)
	case le.Uint16(b[0x3a:]) != stateClean:
		return fmt.Errorf("%w: it was not unmounted cleanly, or has errors: run e2fsck", ErrUnsupported)
	case log > 2 || le.Uint32(b[0x1c:]) != log:
		return fmt.Errorf("%w: blocks of 2^%d KiB", ErrUnsupported, log)
	default:
		f.blockSize = 1024 << log
	}
	f.blocks = int64(le.Uint32(b[0x4:]))
	f.descSize = 32
	if f.incompat&incompat64bit != 0 {
		f.blocks |= int64(le.Uint32(b[0x150:])) << 32
		f.descSize = int64(le.Uint16(b[0xfe:]))
	}
	f.inodes, f.first = le.Uint32(b), int64(le.Uint32(b[0x14:]))
	f.perGroup, f.inodesPer = int64(le.Uint32(b[0x20:])), le.Uint32(b[0x28:])
	f.inodeSize, f.reserved = int64(le.Uint16(b[0x58:])), int64(le.Uint16(b[0xce:]))
	f.backups = [2]uint32{le.Uint32(b[0x24c:]), le.Uint32(b[0x250:])}
	wantFirst := int64(0)
	if f.blockSize == 1024 {
		wantFirst = 1
	}
	switch {
	case f.blocks < 8 || f.blocks > size/f.blockSize || f.first != wantFirst:
		return fmt.Errorf("%w: %d blocks of %d bytes from %d in an image of %d bytes", ErrFormat, f.blocks, f.blockSize, f.first, size)
	case f.perGroup < 8 || f.perGroup > 8*f.blockSize || f.perGroup%8 != 0:
		return fmt.Errorf("%w: groups of %d blocks", ErrFormat, f.perGroup)
	case f.descSize != 32 && f.incompat&incompat64bit == 0 || f.descSize != 64 && f.incompat&incompat64bit != 0:
		return fmt.Errorf("%w: group descriptors of %d bytes", ErrUnsupported, f.descSize)
	case f.inodeSize < 128 || f.inodeSize > f.blockSize || f.inodeSize&(f.inodeSize-1) != 0 || f.inodesPer == 0 || int64(f.inodesPer) > 8*f.blockSize:
		return fmt.Errorf("%w: %d inodes of %d bytes in a group", ErrFormat, f.inodesPer, f.inodeSize)
	case f.groupCount() > maxGroups || uint64(f.inodes) != uint64(f.groupCount())*uint64(f.inodesPer):
		return fmt.Errorf("%w: %d groups, %d inodes", ErrFormat, f.groupCount(), f.inodes)
	}
	f.seed = sum(^uint32(0), b[0x68:0x78]) // of the UUID
	if f.incompat&incompatCsumSeed != 0 {
		f.seed = le.Uint32(b[0x270:])
	}
	if f.summed() && sum(^uint32(0), b[:0x3fc]) != le.Uint32(b[0x3fc:]) {
		return fmt.Errorf("%w: its superblock's checksum does not match", ErrFormat)
	}
	return nil
}

func (f *FS) summed() bool { return f.ro&roMetadataCsum != 0 }

func (f *FS) groupCount() int64 { return (f.blocks - f.first + f.perGroup - 1) / f.perGroup }

// descBlocks is how many blocks the descriptors take.
func (f *FS) descBlocks() int64 {
	return (f.groupCount()*f.descSize + f.blockSize - 1) / f.blockSize
}

func (f *FS) readGroups() error {
	b := make([]byte, f.groupCount()*f.descSize)
	if err := readFull(f.r, b, (f.first+1)*f.blockSize); err != nil {
		return err
	}
	f.groups = make([]group, f.groupCount())
	tableBlocks := (int64(f.inodesPer)*f.inodeSize + f.blockSize - 1) / f.blockSize
	for i := range f.groups {
		d := b[int64(i)*f.descSize:][:f.descSize]
		g := &f.groups[i]
		g.blockBitmap, g.inodeBitmap, g.inodeTable = int64(le.Uint32(d)), int64(le.Uint32(d[4:])), int64(le.Uint32(d[8:]))
		g.flags, g.bitmapSum = le.Uint16(d[0x12:]), uint32(le.Uint16(d[0x18:]))
		if f.descSize == 64 {
			g.blockBitmap |= int64(le.Uint32(d[0x20:])) << 32
			g.inodeBitmap |= int64(le.Uint32(d[0x24:])) << 32
			g.inodeTable |= int64(le.Uint32(d[0x28:])) << 32
			g.bitmapSum |= uint32(le.Uint16(d[0x38:])) << 16
		}
		if f.summed() {
			have := le.Uint16(d[0x1e:])
			le.PutUint16(d[0x1e:], 0)
			if uint16(sum(sum(f.seed, le.AppendUint32(nil, uint32(i))), d)) != have {
				return fmt.Errorf("%w: descriptor of group %d: its checksum does not match", ErrFormat, i)
			}
		} else if f.ro&roGDTCsum == 0 {
			g.flags = 0 // they count only where a checksum holds them
		}
		for _, at := range []int64{g.blockBitmap, g.inodeBitmap, g.inodeTable, g.inodeTable + tableBlocks - 1} {
			if at <= f.first || at >= f.blocks {
				return fmt.Errorf("%w: group %d has its tables at block %d", ErrFormat, i, at)
			}
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum goes on with a CRC-32C as Linux does: not inverted at either end.
func sum(crc uint32, b []byte) uint32 { return ^crc32.Update(^crc, castagnoli, b) }
