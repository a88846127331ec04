// Package verity builds dm-verity's hash trees: format 1 with SHA-256, a salt of
// 32 bytes, data and hash blocks of 4096 bytes (Linux, Documentation/
// admin-guide/device-mapper/verity.rst).
//
// A hash block holds the digests of 128 blocks of the level below. The top
// level comes first and is one block, whose digest is the root hash. With one
// block of data there is no level: the root hash is that block's.
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Sizes in bytes.
const (
	BlockSize = 4096
	HashSize  = sha256.Size
)

const perBlock = BlockSize / HashSize // digests in a hash block

// MaxData bounds the data, in bytes.
const MaxData = 1 << 50

// ErrSize says that data is no whole number of blocks, or of none.
var ErrSize = errors.New("no data for a hash tree")

// Tree is a tree that was built.
type Tree struct {
	RootHash [HashSize]byte
	Salt     [HashSize]byte
	UUID     [16]byte // in the superblock; the guest never reads it
	DataSize int64    // bytes
}

// level is one level of a tree: where it is, in bytes from the tree's start, and
// how many blocks it has.
type level struct{ at, blocks int64 }

// levels returns a tree's levels, the lowest first, and its size in bytes.
func levels(dataSize int64) (all []level, size int64) {
	for n := dataSize / BlockSize; n > 1; {
		n = (n + perBlock - 1) / perBlock
		all = append(all, level{blocks: n})
	}
	for i := len(all) - 1; i >= 0; i-- {
		all[i].at = size
		size += all[i].blocks * BlockSize
	}
	return all, size
}

// Size returns the bytes that Write writes: superblock and tree.
func Size(dataSize int64) int64 {
	_, size := levels(dataSize)
	return BlockSize + size
}

// Storage is where a tree goes. It is read again for the levels above the
// lowest.
type Storage interface {
	io.ReaderAt
	io.WriterAt
}

// Write builds the tree over t.DataSize bytes of data with t.Salt, writes the
// superblock to the storage's start and the tree one block further, and fills in
// the root hash. It reads the data once, in as many goroutines as there are
// processors.
func (t *Tree) Write(ctx context.Context, to Storage, data io.ReaderAt) error {
	if t.DataSize <= 0 || t.DataSize%BlockSize != 0 || t.DataSize > MaxData {
		return fmt.Errorf("build hash tree: %w: %d bytes", ErrSize, t.DataSize)
	}
	if _, err := to.WriteAt(t.superblock(), 0); err != nil {
		return fmt.Errorf("build hash tree: %w", err)
	}
	all, _ := levels(t.DataSize)
	from, at, blocks := data, int64(0), t.DataSize/BlockSize
	for _, l := range all {
		if err := t.level(ctx, to, l, from, at, blocks); err != nil {
			return fmt.Errorf("build hash tree: %w", err)
		}
		from, at, blocks = to, BlockSize+l.at, l.blocks
	}
	top := make([]byte, BlockSize)
	if err := readFull(from, top, at); err != nil {
		return fmt.Errorf("build hash tree: %w", err)
	}
	t.digest(t.RootHash[:0], top)
	return nil
}

// level writes a level over the blocks of the one below.
func (t *Tree) level(ctx context.Context, to io.WriterAt, l level, from io.ReaderAt, at, blocks int64) error {
	var next atomic.Int64
	workers, ctx := errgroup.WithContext(ctx)
	for range min(int64(runtime.GOMAXPROCS(0)), l.blocks) {
		workers.Go(func() error {
			below, digests := make([]byte, perBlock*BlockSize), make([]byte, 0, BlockSize)
			for {
				n := next.Add(1) - 1
				if n >= l.blocks {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				first := n * perBlock
				b := below[:min(perBlock, blocks-first)*BlockSize]
				if err := readFull(from, b, at+first*BlockSize); err != nil {
					return err
				}
				digests = digests[:0]
				for ; len(b) > 0; b = b[BlockSize:] {
					digests = t.digest(digests, b[:BlockSize])
				}
				block := digests[:BlockSize] // zeros after the last digest
				clear(block[len(digests):])
				if _, err := to.WriteAt(block, BlockSize+l.at+n*BlockSize); err != nil {
					return err
				}
			}
		})
	}
	return workers.Wait()
}

// digest appends the digest of the salt and a block.
func (t *Tree) digest(to, block []byte) []byte {
	h := sha256.New()
	h.Write(t.Salt[:])
	h.Write(block)
	return h.Sum(to)
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	return nil
}

// superblock is what `veritysetup verify` looks for (cryptsetup,
// lib/verity/verity.c), little-endian, in a block of its own.
func (t *Tree) superblock() []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b[0:8], "verity")
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // hash type
	copy(b[16:32], t.UUID[:])
	copy(b[32:64], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], uint64(t.DataSize/BlockSize))
	le.PutUint16(b[80:], HashSize)
	copy(b[88:88+256], t.Salt[:])
	return b
}
