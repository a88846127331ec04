package move

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/secexec/secexec/hostagent/fault"
)

// Sizes of a transfer.
const (
	ChunkSize = 1 << 20
	Window    = 16      // chunks that are compared in one step
	MaxSize   = 1 << 50 // of a file, in bytes
)

// Digest is a chunk's SHA-256; the zero value says that the chunk is all zero,
// be it written or a hole.
type Digest [sha256.Size]byte

// File is a file of a guest.
type File interface {
	io.ReaderAt
	io.WriterAt
	// NextData returns the offset of the first data at or after an offset, or
	// the file's size when there is none.
	NextData(offset int64) (int64, error)
	// Zero makes a range read as zeros, and frees it where it can.
	Zero(offset, length int64) error
	// Size is the file's size in bytes.
	Size() int64
}

// Stretch is what a file holds from an offset on: nothing but zeros up to Start,
// then chunks with these digests. Next is where the following one begins.
type Stretch struct {
	Start   int64
	Digests []Digest
	Next    int64
	End     bool // there is no following one
}

// Scan digests the stretch of a file that begins at an offset.
func Scan(ctx context.Context, f File, offset int64) (*Stretch, error) {
	size := f.Size()
	if offset < 0 || offset%ChunkSize != 0 || offset > size {
		return nil, fault.New(fault.BadRequest, "offset %d is no chunk's", offset)
	}
	data, err := f.NextData(offset)
	if err != nil {
		return nil, fmt.Errorf("look for data: %w", err)
	}
	s := &Stretch{Start: max(offset, data/ChunkSize*ChunkSize)}
	s.Next = s.Start
	buf := make([]byte, ChunkSize)
	for s.Next < size && data < size && len(s.Digests) < Window {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		d, err := digestAt(f, s.Next, buf)
		if err != nil {
			return nil, err
		}
		s.Digests = append(s.Digests, d)
		s.Next += ChunkSize
		// A hole ends the stretch: the next one skips it.
		if data, err = f.NextData(min(s.Next, size)); err != nil {
			return nil, fmt.Errorf("look for data: %w", err)
		}
		if data >= s.Next+ChunkSize {
			break
		}
	}
	if data >= size {
		s.Next, s.End = size, true
	}
	return s, nil
}

// Check refuses a stretch that no file of this size has from an offset on.
func (s *Stretch) Check(offset, size int64) error {
	whole := offset >= 0 && offset <= size && offset%ChunkSize == 0 && s.Start >= offset && s.Start <= size && s.Start%ChunkSize == 0 &&
		len(s.Digests) <= Window && (size-s.Start+ChunkSize-1)/ChunkSize >= int64(len(s.Digests))
	behind := min(size, s.Start+int64(len(s.Digests))*ChunkSize)
	if !whole || s.End && s.Next != size || !s.End && (s.Next != behind || s.Next <= offset || s.Next == size) {
		return fault.New(fault.BadRequest, "no file of %d bytes has such a stretch at %d", size, offset)
	}
	return nil
}

// Want compares a file with a stretch of what it should be. Chunks that should
// be zero are made so; the numbers of others that differ, from Start on, are
// returned.
func (s *Stretch) Want(ctx context.Context, f File, offset int64) (chunks []uint32, err error) {
	size := f.Size()
	if err := s.Check(offset, size); err != nil {
		return nil, err
	}
	if err := clear(f, offset, s.Start); err != nil {
		return nil, err
	}
	buf := make([]byte, ChunkSize)
	for i, want := range s.Digests {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		at := s.Start + int64(i)*ChunkSize
		switch is, err := digestAt(f, at, buf); {
		case err != nil:
			return nil, err
		case is == want:
		case want == Digest{}:
			if err := clear(f, at, min(at+ChunkSize, size)); err != nil {
				return nil, err
			}
		default:
			chunks = append(chunks, uint32(i))
		}
	}
	if s.End {
		err = clear(f, min(size, s.Start+int64(len(s.Digests))*ChunkSize), size)
	}
	return chunks, err
}

// clear makes a range zero if it is not a hole already.
func clear(f File, from, to int64) error {
	data, err := f.NextData(from)
	if err != nil || data >= to {
		return err
	}
	if err := f.Zero(data, to-data); err != nil {
		return fault.New(fault.Storage, "write zeros: %w", err)
	}
	return nil
}

// ReadChunk reads the chunk at an offset.
func ReadChunk(f File, offset int64) ([]byte, error) {
	if offset < 0 || offset%ChunkSize != 0 || offset >= f.Size() {
		return nil, fault.New(fault.BadRequest, "offset %d is no chunk's", offset)
	}
	return readAt(f, offset, make([]byte, ChunkSize))
}

// WriteChunk writes a chunk that has this digest.
func WriteChunk(f File, offset int64, data []byte, want Digest) error {
	if offset < 0 || offset%ChunkSize != 0 || offset >= f.Size() || int64(len(data)) != min(ChunkSize, f.Size()-offset) {
		return fault.New(fault.BadRequest, "%d bytes at %d are no chunk", len(data), offset)
	}
	if digest(data) != want {
		return fault.New(fault.Altered, "chunk at %d was changed on its way", offset)
	}
	for len(data) > 0 {
		n, zero := run(data)
		var err error
		if zero { // a hole stays one, or the copy would need more room than the file
			err = clear(f, offset, offset+int64(n))
		} else {
			_, err = f.WriteAt(data[:n], offset)
		}
		if err != nil {
			return fault.New(fault.Storage, "write chunk: %w", err)
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// blockSize is what file systems make holes of.
const blockSize = 4096

// run is how many bytes at the beginning are in blocks that are all zero, or in
// ones that are not.
func run(data []byte) (n int, zero bool) {
	for n < len(data) {
		end := min(n+blockSize, len(data))
		is := string(data[n:end]) == string(zeros[:end-n])
		if n > 0 && is != zero {
			break
		}
		n, zero = end, is
	}
	return n, zero
}

// digestAt digests the chunk at an offset, a hole without reading it.
func digestAt(f File, offset int64, buf []byte) (Digest, error) {
	if data, err := f.NextData(offset); err != nil || data >= offset+ChunkSize || data >= f.Size() {
		return Digest{}, err
	}
	data, err := readAt(f, offset, buf)
	if err != nil {
		return Digest{}, err
	}
	return digest(data), nil
}

func readAt(f File, offset int64, buf []byte) ([]byte, error) {
	n, err := f.ReadAt(buf[:min(int64(len(buf)), f.Size()-offset)], offset)
	if err != nil && (!errors.Is(err, io.EOF) || offset+int64(n) != f.Size()) {
		return nil, fault.New(fault.Storage, "read chunk: %w", err)
	}
	return buf[:n], nil
}

var zeros [ChunkSize]byte

func digest(data []byte) Digest {
	if string(data) == string(zeros[:len(data)]) {
		return Digest{}
	}
	return sha256.Sum256(data)
}

// Sum digests a whole file as its stretches are scanned in order, the same for a
// hole and for zeros; docs/move.md has the form.
type Sum struct {
	hash hash.Hash
	next int64
	end  bool
}

// NewSum begins at a file's first byte.
func NewSum() *Sum { return &Sum{hash: sha256.New()} }

// Next is the offset of the stretch that is to be added next; end says that
// there is none.
func (s *Sum) Next() (offset int64, end bool) { return s.next, s.end }

// Add adds the stretch at an offset. One that is not the next is left out.
func (s *Sum) Add(offset int64, t *Stretch) {
	if s.end || offset != s.next {
		return
	}
	for i, d := range t.Digests {
		if d != (Digest{}) {
			s.hash.Write(append(binary.BigEndian.AppendUint64(nil, uint64(t.Start/ChunkSize+int64(i))), d[:]...))
		}
	}
	s.next, s.end = t.Next, t.End
}

// Digest is the file's digest once all is added.
func (s *Sum) Digest(size int64) [32]byte {
	tail := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, ^uint64(0)), uint64(size))
	return sha256.Sum256(append(s.hash.Sum(nil), tail...))
}

// SumAll is the digest over all files of a guest: names in order, each with its
// length before it, and their digests.
func SumAll(names []string, digests [][32]byte) [32]byte {
	h := sha256.New()
	for i, name := range names {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
		io.WriteString(h, name)
		h.Write(digests[i][:])
	}
	return [32]byte(h.Sum(nil))
}
