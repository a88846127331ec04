package owner

import (
	"encoding/hex"

	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
)

// HashTreeAbout is the hash tree of a volume of mode verity, in about.json. With
// the disk open, `veritysetup verify DEVICE DEVICE ROOT_HASH
// --hash-offset=DATA_SIZE` checks it.
type HashTreeAbout struct {
	RootHash string `json:"root_hash"` // hex
	Salt     string `json:"salt"`      // hex
	DataSize int64  `json:"data_size"` // bytes of the file system
	Offset   int64  `json:"offset"`    // bytes from the payload's start to the tree
}

func aboutHashTree(t *rootdisk.HashTree) *HashTreeAbout {
	if t == nil {
		return nil
	}
	return &HashTreeAbout{RootHash: hex.EncodeToString(t.RootHash[:]), Salt: hex.EncodeToString(t.Salt[:]), DataSize: t.DataSize, Offset: t.Offset}
}

// sealed is the tree as the sealed record has it. What of about.json is no hash
// gives a root hash that no disk has.
func (a *HashTreeAbout) sealed() *sealed.VerityTree {
	if a == nil {
		return nil
	}
	t := &sealed.VerityTree{DataSize: uint64(a.DataSize), HashOffset: uint64(a.Offset)}
	_, _ = hex.Decode(t.RootHash[:], []byte(a.RootHash))
	_, _ = hex.Decode(t.Salt[:], []byte(a.Salt))
	return t
}

// is tells whether two trees are the same.
func (a *HashTreeAbout) is(b *HashTreeAbout) bool {
	return a == b || a != nil && b != nil && *a == *b
}
