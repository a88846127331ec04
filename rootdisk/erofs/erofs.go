// Package erofs writes EROFS, Linux's read-only file system: uncompressed, with
// blocks of 4096 bytes (Linux, Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h). Every kernel from 5.4 on reads it.
//
// The superblock's block comes first, then all inodes, each followed by its
// extended attributes and the last part of its content where both fit into the
// inode's block, then the blocks of content. The same nodes give the same bytes.
package erofs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
)

const (
	blockSize  = 4096
	slot       = 32 // an inode's number counts these from the start of the metadata
	inodeSize  = 64 // struct erofs_inode_extended
	superAt    = 1024
	magic      = 0xe0f5e1e2
	sbChecksum = 1 << 0 // feature_compat: the superblock has a checksum
	sbMTime    = 1 << 1 // feature_compat: times are those of modification
)

// Ways to store content, in i_format above its lowest bit, which says that the
// inode is an extended one.
const (
	plain  = 0
	inline = 2
)

// ErrNode says that a node can't be in EROFS.
var ErrNode = errors.New("not storable in EROFS")

// Node is a file. Several names may lead to one: hard links.
type Node struct {
	Mode         uint32 // type and permissions, as in stat(2)
	UID, GID     uint32
	Major, Minor uint32 // of a device
	MTime        int64  // seconds since 1970
	Xattrs       []Xattr
	Target       string                        // of a symbolic link
	Size         int64                         // of a regular file
	Open         func() (io.ReadCloser, error) // its content, of Size bytes
	Kids         map[string]*Node              // of a folder

	links   uint32
	ino     uint32 // 0 until it has a place
	written bool
	nid     uint64
	xattrs  []byte // as they follow the inode
	size    int64  // of content, whatever the type
	layout  uint16 // plain or inline
	block   int64  // of content's first, counted from the first of all
}

// Xattr is an extended attribute with its whole name.
type Xattr struct {
	Name  string
	Value []byte
}

// File types in a mode.
const (
	typeMask    = 0o170000
	typeFile    = 0o100000
	typeFolder  = 0o040000
	typeSymlink = 0o120000
	typeChar    = 0o020000
	typeBlock   = 0o060000
	typePipe    = 0o010000
)

// direntTypes are the types in a folder's entries.
var direntTypes = map[uint32]byte{typeFile: 1, typeFolder: 2, typeChar: 3, typeBlock: 4, typePipe: 5, typeSymlink: 7}

// writer lays nodes out, then writes them.
type writer struct {
	ctx    context.Context
	out    io.WriterAt
	meta   int64 // bytes of metadata
	blocks int64 // of content
	inodes uint32
	first  int64 // block that content begins at
}

// Write writes a file system to an empty file and returns its size in bytes. The
// nodes are Write's from then on: it counts their links in them.
func Write(ctx context.Context, out io.WriterAt, root *Node, uuid [16]byte, label string) (int64, error) {
	w := &writer{ctx: ctx, out: out, meta: 2 * slot} // no file has the number 0, which readdir(3) takes for none
	err := w.place(root)
	if err == nil {
		w.first = 1 + (w.meta+blockSize-1)/blockSize
		if w.first+w.blocks > 1<<32-1 {
			err = fmt.Errorf("%w: more than 16 TiB", ErrNode)
		}
	}
	size := (w.first + w.blocks) * blockSize
	if err == nil {
		_, err = w.out.WriteAt([]byte{0}, size-1) // whatever comes last may be shorter
	}
	if err == nil {
		_, err = w.out.WriteAt(w.superblock(root, uuid, label), 0)
	}
	if err == nil {
		err = w.write(".", root, root)
	}
	if err != nil {
		return 0, fmt.Errorf("write EROFS: %w", err)
	}
	return size, nil
}

// place gives a node and all below it their places, and counts links.
func (w *writer) place(n *Node) error {
	n.links++
	if n.ino != 0 {
		return nil
	}
	w.inodes++
	n.ino = w.inodes
	var err error
	if n.xattrs, err = xattrs(n.Xattrs); err != nil {
		return err
	}
	switch n.Mode & typeMask {
	case typeFile:
		n.size = n.Size
	case typeFolder:
		n.links++ // its own "."
		n.size = folderSize(n.names())
	case typeSymlink:
		n.size = int64(len(n.Target))
	case typeChar, typeBlock, typePipe:
	default:
		return fmt.Errorf("%w: type 0%o", ErrNode, n.Mode&typeMask)
	}
	head, tail := int64(inodeSize+len(n.xattrs)), n.size%blockSize
	at, blocks := (w.meta+slot-1)/slot*slot, n.size/blockSize
	switch {
	case tail == 0:
	case head+tail > blockSize:
		blocks++
	default:
		n.layout = inline
		if head += tail; at%blockSize+head > blockSize {
			at = (at + blockSize - 1) / blockSize * blockSize
		}
	}
	n.nid, n.block = uint64(at/slot), w.blocks
	w.meta, w.blocks = at+head, w.blocks+blocks
	for _, name := range n.names() {
		kid := n.Kids[name]
		if kid.Mode&typeMask == typeFolder {
			n.links++ // its ".."
		}
		if err := w.place(kid); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// names are a folder's, in their order on disk.
func (n *Node) names() []string { return slices.Sorted(maps.Keys(n.Kids)) }

// write writes a node and all below it.
func (w *writer) write(name string, n, parent *Node) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if n.written {
		return nil
	}
	n.written = true
	content, err := n.content(parent)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	tail, err := w.blocksOf(n, content)
	if err = errors.Join(err, content.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := w.out.WriteAt(slices.Concat(w.inode(n), n.xattrs, tail), blockSize+int64(n.nid)*slot); err != nil {
		return err
	}
	for _, name := range n.names() {
		if err := w.write(name, n.Kids[name], n); err != nil {
			return err
		}
	}
	return nil
}

// blocksOf writes the blocks of a node's content and returns what goes behind the
// inode instead.
func (w *writer) blocksOf(n *Node, content io.Reader) (tail []byte, err error) {
	buf := make([]byte, min(1<<20, (n.size+blockSize-1)/blockSize*blockSize))
	at := (w.first + n.block) * blockSize
	for left := n.size; left > 0; {
		b := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(content, b); err != nil {
			return nil, fmt.Errorf("%w: it does not have its %d bytes: %w", ErrNode, n.size, err)
		}
		left -= int64(len(b))
		if rest := len(b) % blockSize; rest != 0 && n.layout == inline {
			b, tail = b[:len(b)-rest], slices.Clone(b[len(b)-rest:])
		} else if rest != 0 {
			b = buf[:(len(b)+blockSize-1)/blockSize*blockSize]
			clear(b[len(b)-blockSize+rest:])
		}
		if _, err := w.out.WriteAt(b, at); err != nil {
			return nil, err
		}
		at += int64(len(b))
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
	}
	return tail, nil
}

// content returns a node's content.
func (n *Node) content(parent *Node) (io.ReadCloser, error) {
	switch n.Mode & typeMask {
	case typeFile:
		if n.Size > 0 {
			return n.Open()
		}
	case typeFolder:
		return io.NopCloser(strings.NewReader(string(n.folder(parent)))), nil
	case typeSymlink:
		return io.NopCloser(strings.NewReader(n.Target)), nil
	}
	return io.NopCloser(strings.NewReader("")), nil
}

// inode is a struct erofs_inode_extended.
func (w *writer) inode(n *Node) []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	le.PutUint16(b[0:], 1|n.layout<<1)
	if len(n.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(n.xattrs)-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(n.size))
	switch n.Mode & typeMask {
	case typeChar, typeBlock:
		le.PutUint32(b[16:], n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12) // new_encode_dev in linux/kdev_t.h
	default:
		le.PutUint32(b[16:], uint32(w.first+n.block))
	}
	le.PutUint32(b[20:], n.ino)
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.MTime))
	le.PutUint32(b[44:], n.links)
	return b
}

// superblock is the first block.
func (w *writer) superblock(root *Node, uuid [16]byte, label string) []byte {
	block := make([]byte, blockSize)
	b := block[superAt:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], sbChecksum|sbMTime)
	b[12] = 12 // blocks of 1<<12 bytes
	le.PutUint16(b[14:], uint16(root.nid))
	le.PutUint64(b[16:], uint64(w.inodes))
	le.PutUint32(b[36:], uint32(w.first+w.blocks))
	le.PutUint32(b[40:], 1) // the metadata's first block
	copy(b[48:64], uuid[:])
	copy(b[64:79], label)
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))) // the kernel's is not inverted at the end
	return block
}
