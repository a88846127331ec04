// Package rootdisk makes encrypted root disks from a folder or a tar archive,
// without root rights and without a device-mapper.
//
// A disk is a LUKS2 header of 16 MiB and the payload, an ext4 file system
// encrypted as dm-crypt does. The guest uses neither the header nor anything
// else that it reads from the disk to open it: key and geometry are in the
// sealed record. The header is for the owner's cryptsetup.
package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
)

// Options say what to make.
type Options struct {
	Source     string       // folder or tar archive (plain, gzip, xz, zstd)
	Size       int64        // bytes of the file system, a multiple of MiB; 0: content and head-room
	Key        secret.Bytes // volume key, KeySize bytes; nil: random, and lost unless a key slot holds it
	Passphrase secret.Bytes // opens the LUKS2 key slot; as cryptsetup's --key-file
}

// KeySize is the volume key's size in bytes: AES-256-XTS.
const KeySize = 64

// Volume is what was made.
type Volume struct {
	ID      [16]byte // LUKS2 UUID
	Offset  int64    // bytes from the disk's start to the payload
	Size    int64    // bytes of payload
	Entries int      // files, folders and the like in it
}

// Errors of Create.
var (
	ErrOptions     = errors.New("root disk can't be made so")
	ErrToolMissing = errors.New("program is missing")
	ErrTool        = errors.New("program failed")
)

// Create makes a root disk at path, which must not exist. The disk appears
// complete or not at all; plain text lies in a folder of mode 0700 beside it
// while Create works, and is removed before it returns.
func Create(ctx context.Context, path string, o Options) (*Volume, error) {
	switch {
	case len(o.Passphrase) == 0:
		return nil, fmt.Errorf("%w: no pass phrase or key file for its key slot", ErrOptions)
	case o.Key != nil && len(o.Key) != KeySize:
		return nil, fmt.Errorf("%w: volume key has %d bytes, wants %d", ErrOptions, len(o.Key), KeySize)
	case o.Size < 0 || o.Size%mebi != 0:
		return nil, fmt.Errorf("%w: size %d is no multiple of 1 MiB", ErrOptions, o.Size)
	}
	key := o.Key
	if key == nil {
		key = secret.Random(KeySize)
		defer key.Wipe()
	}
	out, err := outfile.Create(path, 0o600, false)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	work, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".work-*")
	if err != nil {
		return nil, fmt.Errorf("create root disk: %w", err)
	}
	defer removeAll(work)

	tree, err := stage(ctx, o.Source, filepath.Join(work, "tree"))
	if err != nil {
		return nil, err
	}
	plain, size, err := makeExt4(ctx, work, tree, o.Size)
	if err != nil {
		return nil, err
	}
	defer plain.Close()

	v := &Volume{ID: randomUUID(), Offset: payloadOffset, Size: size, Entries: len(tree.entries)}
	if err := writeHeader(out, v, key, o.Passphrase); err != nil {
		return nil, err
	}
	if err := encrypt(ctx, out, payloadOffset, plain, size, key); err != nil {
		return nil, err
	}
	return v, out.Commit()
}

// removeAll removes a staged tree, read-only folders included.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

func randomUUID() [16]byte {
	id := [16]byte(secret.Random(16))
	id[6] = id[6]&0x0f | 0x40 // version 4, RFC 9562
	id[8] = id[8]&0x3f | 0x80
	return id
}

// formatUUID returns a UUID's text.
func formatUUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// contextReader ends a long read when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
