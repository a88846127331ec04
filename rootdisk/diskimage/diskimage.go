// Package diskimage reads disk images, raw or qcow2: their partition tables
// (GPT, MBR, DASD) and which file system lies where. It finds a root to encrypt;
// it mounts and changes nothing.
package diskimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Errors.
var (
	ErrImage     = errors.New("disk image refused")
	ErrPartition = errors.New("no root partition chosen")
	errNoTable   = errors.New("no partition table")
)

// Image is an open disk image. Reads beyond what the file has stored, in a
// qcow2 image or a hole, give zeros.
type Image struct {
	io.ReaderAt
	Size   int64  // bytes of the disk
	Format string // raw or qcow2
}

// Open tells the format by the first bytes. f stays its owner's.
func Open(f *os.File) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if info.Mode()&os.ModeDevice != 0 {
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err == nil && string(head) == qcowMagic {
		q, err := openQcow2(f, size)
		if err != nil {
			return nil, err
		}
		return &Image{q, q.size, "qcow2"}, nil
	}
	return &Image{f, size, "raw"}, nil
}

// Is tells whether a file is a disk image and no archive: a qcow2 image, a file
// system, or a partition table.
func Is(f *os.File) bool {
	img, err := Open(f)
	if err != nil {
		return errors.Is(err, ErrImage) // it says that it is one
	}
	if img.Format != "raw" || FileSystem(img, img.Size) != "" {
		return true
	}
	_, err = Partitions(img, img.Size)
	return !errors.Is(err, errNoTable)
}

// FileSystem tells a file system by its magic: ext4 (also ext2 and ext3, which
// its driver mounts), xfs, erofs, others that a guest can't mount as its root,
// or "". size is of the partition.
func FileSystem(r io.ReaderAt, size int64) string {
	b := make([]byte, min(size, 66<<10))
	if n, err := r.ReadAt(b, 0); n < len(b) && err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	for _, m := range []struct {
		at    int
		magic string
		name  string
	}{
		{1080, "\x53\xef", "ext4"}, {0, "XFSB", "xfs"}, {1024, "\xe2\xe1\xf5\xe0", "erofs"},
		{0x10040, "_BHRfS_M", "btrfs"}, {0, "hsqs", "squashfs"}, {0, "LUKS\xba\xbe", "LUKS"}, {4086, "SWAPSPACE2", "swap"},
		{536, "LVM2 001", "LVM2"}, {82, "FAT32", "vfat"}, {54, "FAT", "vfat"}, {1024, "\x10\x20\xf5\xf2", "f2fs"},
	} {
		if m.at+len(m.magic) <= len(b) && string(b[m.at:m.at+len(m.magic)]) == m.magic {
			return m.name
		}
	}
	return ""
}

// Unfinished tells whether an ext4's journal holds what is yet to be written to
// its place: it was not unmounted, and can't be mounted where nothing is written.
func Unfinished(r io.ReaderAt) bool {
	b := make([]byte, 4)
	if n, _ := r.ReadAt(b, 1024+96); n < len(b) { // s_feature_incompat
		return false
	}
	return binary.LittleEndian.Uint32(b)&4 != 0 // INCOMPAT_RECOVER
}

// Mountable tells whether a guest can have a file system as its root.
func Mountable(fs string) bool { return fs == "ext4" || fs == "xfs" || fs == "erofs" }

// Root finds the root in an image: all of it if it is a file system, else the
// partition with a number, or the only one that can be it when number is 0.
func Root(img *Image, number int) (p Partition, err error) {
	if fs := FileSystem(img, img.Size); fs != "" && fs != "vfat" {
		if number != 0 {
			return p, fmt.Errorf("%w: partition %d of an image that is one file system (%s)", ErrPartition, number, fs)
		}
		if !Mountable(fs) {
			return p, fmt.Errorf("%w: it holds %s; a root is ext4, xfs or erofs", ErrImage, fs)
		}
		p = Partition{Size: img.Size, FileSystem: fs}
		return p, p.checkWhole(img)
	}
	table, err := Partitions(img, img.Size)
	if err != nil {
		if errors.Is(err, errNoTable) {
			return p, fmt.Errorf("%w: it holds neither a file system nor a partition table", ErrImage)
		}
		return p, err
	}
	for i := range table.Partitions {
		t := &table.Partitions[i]
		t.FileSystem = FileSystem(io.NewSectionReader(img, t.Start, t.Size), t.Size)
	}
	if p, err = table.choose(number); err != nil {
		return p, err
	}
	return p, p.checkWhole(img)
}
