package rootdisk

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"

	"github.com/secexec/secexec/rootdisk/verity"
)

// HashTree is dm-verity's tree behind a volume's file system, in the payload.
// Between the two there is veritysetup's superblock, in a block of its own, for
// the owner: `veritysetup verify PLAIN PLAIN ROOT-HASH --hash-offset=DATA-SIZE`
// of the open disk. No guest reads it.
type HashTree struct {
	RootHash [verity.HashSize]byte
	Salt     [verity.HashSize]byte
	DataSize int64 // bytes of the file system
	Offset   int64 // bytes from the payload's start to the tree
}

// withTree returns a file system with its hash tree behind it. Salt and UUID
// come from the volume's ID: the same file system of the same volume has the same
// root hash.
func withTree(ctx context.Context, work string, plain plainText, v *Volume) (_ plainText, err error) {
	salt := sha256.Sum256(append([]byte("secexec verity salt\x00"), v.ID[:]...))
	tree := verity.Tree{Salt: salt, UUID: seedUUID(v.ID), DataSize: v.Size}
	f, err := nameless(work)
	if err != nil {
		return nil, err
	}
	if err := tree.Write(ctx, f, plain); err != nil {
		f.Close()
		return nil, err
	}
	v.HashTree = &HashTree{RootHash: tree.RootHash, Salt: salt, DataSize: v.Size, Offset: v.Size + verity.BlockSize}
	v.Size += verity.Size(v.Size)
	return &joined{plain, f, v.HashTree.DataSize}, nil
}

// joined is plain text of a size with the tree after it.
type joined struct {
	plain plainText
	tree  *os.File
	size  int64
}

func (j *joined) ReadAt(b []byte, at int64) (n int, err error) {
	if at < j.size {
		if n, err = j.plain.ReadAt(b[:min(int64(len(b)), j.size-at)], at); n == len(b) || int64(n) < j.size-at {
			return n, err
		}
	}
	m, err := j.tree.ReadAt(b[n:], at+int64(n)-j.size)
	return n + m, err
}

func (j *joined) Close() error { return errors.Join(j.plain.Close(), j.tree.Close()) }
