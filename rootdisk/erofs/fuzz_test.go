package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"testing"
)

// image is an image in memory, with a reader after the format's description.
type memory []byte

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if end := int(at) + len(b); end > len(*m) {
		*m = append(*m, make([]byte, end-len(*m))...)
	}
	return copy((*m)[at:], b), nil
}

func (m memory) inode(nid uint64) []byte { return m[blockSize+nid*slot:] }

func (m memory) content(nid uint64) []byte {
	le := binary.LittleEndian
	i := m.inode(nid)
	size, block, head := le.Uint64(i[8:]), uint64(le.Uint32(i[16:])), uint64(inodeSize)
	if n := le.Uint16(i[2:]); n > 0 {
		head += xattrHeader + 4*(uint64(n)-1)
	}
	if le.Uint16(i)>>1 != inline {
		return m[block*blockSize:][:size]
	}
	whole := size / blockSize * blockSize
	return append(slices.Clone(m[block*blockSize:][:whole]), i[head:head+size-whole]...)
}

// entry is a name in a block of a folder.
func entry(block []byte, n int) (name string, nid uint64, kind byte) {
	le := binary.LittleEndian
	e, end := block[n*direntSize:], len(block)
	if n+1 < entries(block) {
		end = int(le.Uint16(e[direntSize+8:]))
	}
	name, _, _ = strings.Cut(string(block[le.Uint16(e[8:]):end]), "\x00")
	return name, le.Uint64(e), e[10]
}

func entries(block []byte) int { return int(binary.LittleEndian.Uint16(block[8:])) / direntSize }

// find looks a name up as the kernel does: the block by its first name, then the
// name in it, both by halves.
func (m memory) find(folder uint64, want string) (nid uint64, kind byte, ok bool) {
	blocks := slices.Collect(slices.Chunk(m.content(folder), blockSize))
	at := sort.Search(len(blocks), func(n int) bool { name, _, _ := entry(blocks[n], 0); return name > want }) - 1
	if at < 0 {
		return 0, 0, false
	}
	b := blocks[at]
	n := sort.Search(entries(b), func(n int) bool { name, _, _ := entry(b, n); return name >= want })
	if n == entries(b) {
		return 0, 0, false
	}
	name, nid, kind := entry(b, n)
	return nid, kind, name == want
}

// Whatever the names and sizes, each name is found, with its content, and no
// inode's last part of content leaves the inode's block.
func FuzzWrite(f *testing.F) {
	f.Add([]byte("ab"), uint16(0), uint16(0))
	f.Add([]byte("\x01\xff-+"), uint16(4095), uint16(20))
	f.Add([]byte("some names, of some lengths"), uint16(4033), uint16(700))
	f.Fuzz(func(t *testing.T, seed []byte, size, count uint16) {
		kids := make(map[string]*Node)
		contents := make(map[string]string)
		for i := range int(count % 1000) {
			name := strings.Map(func(r rune) rune {
				if r == '/' || r == 0 {
					return '_'
				}
				return r
			}, fmt.Sprintf("%.100q%d", seed[min(i, len(seed)):], i))
			text := strings.Repeat(name, int(size)/len(name)+1)[:(int(size)+i)%(int(size)+1)]
			n := file(text)
			if i%3 == 0 {
				n.Xattrs = []Xattr{{"user.x", []byte(text)}}
			}
			kids[name], contents[name] = n, text
		}
		sub := folder(map[string]*Node{"below": folder(kids)})
		var m memory
		n, err := Write(context.Background(), &m, sub, [16]byte{}, "")
		if err != nil || n != int64(len(m)) || n%blockSize != 0 {
			t.Fatalf("%d of %d bytes: %v", n, len(m), err)
		}
		root := uint64(binary.LittleEndian.Uint16(m[superAt+14:]))
		below, kind, ok := m.find(root, "below")
		if !ok || kind != 2 {
			t.Fatalf("folder is %d %v", kind, ok)
		}
		if up, _, ok := m.find(below, ".."); !ok || up != root {
			t.Errorf(".. is %d %v", up, ok)
		}
		for name, want := range contents {
			nid, kind, ok := m.find(below, name)
			if !ok || kind != 1 || string(m.content(nid)) != want {
				t.Fatalf("%q: %d %v", name, kind, ok)
			}
			i := m.inode(nid)
			le := binary.LittleEndian
			if le.Uint16(i)>>1 == inline {
				head := nid*slot + inodeSize
				if x := le.Uint16(i[2:]); x > 0 {
					head += xattrHeader + 4*(uint64(x)-1)
				}
				if end := head + le.Uint64(i[8:])%blockSize; (end-1)/blockSize != nid*slot/blockSize {
					t.Fatalf("%q: content from %d to %d leaves the block", name, head, end)
				}
			}
		}
		if _, _, ok := m.find(below, "absent"); ok {
			t.Error("finds what is not there")
		}
	})
}

var _ io.WriterAt = (*memory)(nil)
