package ext4

import (
	"fmt"
	"io"
)

// RootInode is the number of a file system's top folder.
const RootInode = 2

const (
	flagExtents  = 0x80000
	extentMagic  = 0xf30a
	maxDepth     = 5
	maxDirBlocks = 1 << 20
	maxNodes     = 4096 // of a folder's tree of extents
	tailSize     = 12   // of a folder's block: a checksum in an entry's shape
	tailType     = 0xde
)

// Inode is an inode as it lies on disk.
type Inode struct {
	Number uint32
	raw    []byte
}

// Mode has type and permissions, as stat(2).
func (i *Inode) Mode() uint16 { return le.Uint16(i.raw) }

// Size is a file's size in bytes.
func (i *Inode) Size() int64 { return int64(le.Uint32(i.raw[4:])) | int64(le.Uint32(i.raw[0x6c:]))<<32 }

// SetMode sets type and permissions.
func (i *Inode) SetMode(mode uint16) { le.PutUint16(i.raw, mode) }

// SetOwner sets user and group.
func (i *Inode) SetOwner(uid, gid uint32) {
	le.PutUint16(i.raw[0x2:], uint16(uid))
	le.PutUint16(i.raw[0x78:], uint16(uid>>16))
	le.PutUint16(i.raw[0x18:], uint16(gid))
	le.PutUint16(i.raw[0x7a:], uint16(gid>>16))
}

// SetTimes sets all four times to one, in seconds since 1970. Two bits beside
// each carry it to the year 2446; later ones become that.
func (i *Inode) SetTimes(seconds int64) {
	seconds = min(seconds, 1<<34-1<<31-1)
	epoch := uint32((seconds-int64(int32(seconds)))>>32) & 3
	for _, at := range []int{0x8, 0xc, 0x10, 0x90} {
		if at+4 <= i.end() {
			le.PutUint32(i.raw[at:], uint32(seconds))
		}
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
		if at+4 <= i.end() {
			le.PutUint32(i.raw[at:], epoch)
		}
	}
}

// end is where the inode's fields end.
func (i *Inode) end() int {
	if len(i.raw) <= 128 {
		return 128
	}
	return min(len(i.raw), 128+int(le.Uint16(i.raw[0x80:])))
}

// SetDevice makes an inode without blocks a device's.
func (i *Inode) SetDevice(major, minor uint32) {
	le.PutUint32(i.raw[0x20:], le.Uint32(i.raw[0x20:])&^flagExtents)
	clear(i.raw[0x28:0x64])
	if major < 256 && minor < 256 { // the kernel's old and new encodings
		le.PutUint32(i.raw[0x28:], major<<8|minor)
	} else {
		le.PutUint32(i.raw[0x2c:], minor&0xff|major<<8|minor&^0xff<<12)
	}
}

func (f *FS) inodeOffset(n uint32) (int64, error) {
	if n == 0 || n > f.inodes {
		return 0, fmt.Errorf("%w: inode %d", ErrFormat, n)
	}
	g, i := (n-1)/f.inodesPer, (n-1)%f.inodesPer
	return f.groups[g].inodeTable*f.blockSize + int64(i)*f.inodeSize, nil
}

// Inode reads an inode.
func (f *FS) Inode(n uint32) (*Inode, error) {
	at, err := f.inodeOffset(n)
	if err != nil {
		return nil, err
	}
	i := &Inode{n, make([]byte, f.inodeSize)}
	if err := readFull(f.r, i.raw, at); err != nil {
		return nil, err
	}
	return i, nil
}

// WriteInode writes an inode back, with its checksum.
func (f *FS) WriteInode(w io.WriterAt, i *Inode) error {
	at, err := f.inodeOffset(i.Number)
	if err != nil {
		return err
	}
	if f.summed() {
		wide := i.end() >= 0x84
		le.PutUint16(i.raw[0x7c:], 0)
		if wide {
			le.PutUint16(i.raw[0x82:], 0)
		}
		crc := sum(f.inodeSeed(i), i.raw)
		le.PutUint16(i.raw[0x7c:], uint16(crc))
		if wide {
			le.PutUint16(i.raw[0x82:], uint16(crc>>16))
		}
	}
	_, err = w.WriteAt(i.raw, at)
	return err
}

// inodeSeed begins the checksums of what belongs to an inode.
func (f *FS) inodeSeed(i *Inode) uint32 {
	return sum(sum(f.seed, le.AppendUint32(nil, i.Number)), i.raw[0x64:0x68]) // generation
}

// Entry is a name in a folder.
type Entry struct {
	Inode uint32
	Type  byte  // as in the directory: 1 file, 2 folder, 3 and 4 devices, ...
	block int64 // where it lies in the image
	at    int   // in the block
}

// Types of entries.
const (
	TypeChar  = 3
	TypeBlock = 4
)

// Folder reads a folder's names but "." and "..".
func (f *FS) Folder(dir *Inode) (map[string]Entry, error) {
	entries := make(map[string]Entry)
	count := dir.Size() / f.blockSize
	if dir.Mode()&0xf000 != 0x4000 || dir.Size()%f.blockSize != 0 || count > maxDirBlocks {
		return nil, fmt.Errorf("%w: inode %d is no folder", ErrFormat, dir.Number)
	}
	if le.Uint32(dir.raw[0x20:])&flagExtents == 0 {
		return nil, fmt.Errorf("%w: folder %d has no extents", ErrUnsupported, dir.Number)
	}
	seen := int64(0)
	b := make([]byte, f.blockSize)
	nodes := maxNodes
	err := f.extents(dir.raw[0x28:0x64], maxDepth, &nodes, func(start, n int64) error {
		for at := start; at < start+n; at++ {
			if seen++; seen > count {
				return fmt.Errorf("%w: folder %d has too many blocks", ErrFormat, dir.Number)
			}
			if err := readFull(f.r, b, at*f.blockSize); err != nil {
				return err
			}
			if err := parseFolder(b, at, entries); err != nil {
				return fmt.Errorf("folder %d: %w", dir.Number, err)
			}
		}
		return nil
	})
	return entries, err
}

func parseFolder(b []byte, block int64, into map[string]Entry) error {
	for at := 0; at < len(b); {
		if len(b)-at < 8 {
			return fmt.Errorf("%w: an entry is cut off", ErrFormat)
		}
		size, name := int(le.Uint16(b[at+4:])), int(b[at+6])
		if size < 8 || size%4 != 0 || size > len(b)-at || 8+name > size {
			return fmt.Errorf("%w: an entry of %d bytes for a name of %d", ErrFormat, size, name)
		}
		if n := le.Uint32(b[at:]); n != 0 {
			s := string(b[at+8 : at+8+name])
			if _, twice := into[s]; twice {
				return fmt.Errorf("%w: %q stands in it twice", ErrFormat, s)
			}
			if s != "." && s != ".." {
				into[s] = Entry{n, b[at+7], block, at}
			}
		}
		at += size
	}
	return nil
}

// extents calls f for each run of blocks of an inode's tree.
func (f *FS) extents(node []byte, depth int, nodes *int, each func(start, n int64) error) error {
	count, below := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if le.Uint16(node) != extentMagic || 12+12*count > len(node) || below > depth || *nodes == 0 {
		return fmt.Errorf("%w: a node of extents", ErrFormat)
	}
	*nodes--
	for i := range count {
		e := node[12+12*i:][:12]
		if below == 0 {
			n := int64(le.Uint16(e[4:]))
			start := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
			if n > 32768 || start+n > f.blocks {
				return fmt.Errorf("%w: an extent of %d blocks at %d", ErrFormat, n, start)
			}
			if err := each(start, n); err != nil {
				return err
			}
			continue
		}
		next := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
		if next >= f.blocks {
			return fmt.Errorf("%w: a node of extents at %d", ErrFormat, next)
		}
		b := make([]byte, f.blockSize)
		if err := readFull(f.r, b, next*f.blockSize); err != nil {
			return err
		}
		if err := f.extents(b, below-1, nodes, each); err != nil {
			return err
		}
	}
	return nil
}

// SetType changes the type that a folder gives for one of its names.
func (f *FS) SetType(w io.WriterAt, dir *Inode, e Entry, kind byte) error {
	b := make([]byte, f.blockSize)
	if err := readFull(f.r, b, e.block*f.blockSize); err != nil {
		return err
	}
	b[e.at+7] = kind
	if f.summed() {
		tail := b[len(b)-tailSize:]
		if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != tailSize || tail[7] != tailType {
			return fmt.Errorf("%w: folder %d is indexed", ErrUnsupported, dir.Number)
		}
		le.PutUint32(tail[8:], sum(f.inodeSeed(dir), b[:len(b)-tailSize]))
	}
	_, err := w.WriteAt(b, e.block*f.blockSize)
	return err
}
