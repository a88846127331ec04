// Package rootdisk makes encrypted root disks and data volumes from a folder, a
// tar archive, a container image or a disk image, without root rights and
// without a device-mapper, and opens them again.
//
// A disk is a LUKS2 header of 16 MiB and the payload, a file system encrypted as
// dm-crypt does. The guest uses neither the header nor anything
// else that it reads from the disk to open it: key and geometry are in the
// sealed record. The header is for the owner's cryptsetup.
package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk/ext4"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/secret"
)

// Options say what to make.
type Options struct {
	// Source is a folder, a tar archive (plain, gzip, bzip2, xz, zstd), a disk or
	// partition image (raw, qcow2), or a container image with its transport
	// (package oci). "" makes an empty file system, which needs a Size.
	Source    string
	Partition int    // of a disk image; 0: the only one that can be a root
	Size      int64  // bytes of the file system, a multiple of MiB; 0: content and head-room
	Label     string // of the LUKS2 header, and of an ext4 that is made: up to 16 bytes

	// ID is the volume's; zero: random. The same files with the same ID and
	// Size, and the same e2fsprogs, give the same file system byte by byte. With the previous volume's
	// ID and Key an update of it changes few blocks of the disk.
	ID [16]byte

	Key        secret.Bytes // volume key, KeySize bytes; nil: random, and lost unless a key slot holds it
	Slots      []luks2.Slot
	Passphrase secret.Bytes // short for a first slot with luks2.RandomKey: a key file of 32 random bytes or more

	// Sparse leaves blocks that the ext4 marks free as holes. Whoever has the disk
	// then sees which blocks are in use. Other file systems are refused.
	Sparse bool

	Read    []string          // absolute paths of small files to give back in Volume.Files; not of a disk image's
	SkipTLS bool              // of a registry: as podman's --tls-verify=false
	Skipped func(name string) // is told of sockets, which are left out; may be nil
}

// KeySize is the volume key's size in bytes: AES-256-XTS.
const KeySize = luks2.KeySize

const payloadOffset = luks2.PayloadOffset

// Volume is what was made.
type Volume struct {
	ID      [16]byte    // LUKS2 UUID
	Offset  int64       // bytes from the disk's start to the payload
	Size    int64       // bytes of payload
	FSType  string      // ext4, xfs or erofs
	Entries int         // files, folders and the like in it; 0 of a disk image, which is taken as it is
	Config  *oci.Config // of a container image; nil of other sources
	Digest  string      // of a container image: what it was

	Files map[string][]byte // those of Options.Read that are there; nil of a disk image
}

// Errors of Create.
var (
	ErrOptions = errors.New("root disk can't be made so")
)

// Create makes a root disk or data volume at path, which must not exist. The
// disk appears complete or not at all; plain text lies in a folder of mode 0700
// beside it while Create works, and is removed before it returns.
func Create(ctx context.Context, path string, o Options) (*Volume, error) {
	slots := o.Slots
	if len(o.Passphrase) > 0 {
		slots = append([]luks2.Slot{{Passphrase: o.Passphrase, KDF: luks2.RandomKey}}, slots...)
	}
	if err := o.check(slots); err != nil {
		return nil, err
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
	work, err := outfile.CreateDir(path, 0o700) // a killed maker's is removed as its output is
	if err != nil {
		return nil, err
	}
	defer work.Abort()

	v := &Volume{ID: o.ID, Offset: payloadOffset}
	if v.ID == [16]byte{} {
		v.ID = randomUUID()
	}
	plain, err := o.plain(ctx, work.Path, v)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	used := func(at, n int64) bool { return true }
	if o.Sparse {
		if used, err = inUse(plain, v); err != nil {
			return nil, err
		}
	}
	if err := out.Truncate(v.Offset + v.Size); err != nil {
		return nil, fmt.Errorf("create root disk: %w", err)
	}
	// Key slots take as long as they should; the payload need not wait for them.
	header := make(chan error, 1)
	go func() {
		header <- luks2.Write(out, luks2.Layout{ID: v.ID, Label: o.Label, Size: v.Size}, key, slots...)
	}()
	err = encrypt(ctx, out, payloadOffset, plain, v.Size, key, used)
	if err := errors.Join(err, <-header); err != nil {
		return nil, err
	}
	return v, out.Commit()
}

// inUse tells what of a volume's file system is in use.
func inUse(plain io.ReaderAt, v *Volume) (func(at, n int64) bool, error) {
	fs, err := ext4.Open(plain, v.Size)
	if err == nil {
		var used *ext4.Used
		if used, err = fs.Used(); err == nil {
			return used.Range, nil
		}
	}
	return nil, fmt.Errorf("%w: which blocks of its %s are free is not known: make it without holes: %w", ErrOptions, v.FSType, err)
}

func (o *Options) check(slots []luks2.Slot) error {
	switch {
	case o.Key != nil && len(o.Key) != KeySize:
		return fmt.Errorf("%w: volume key has %d bytes, wants %d", ErrOptions, len(o.Key), KeySize)
	case o.Size < 0 || o.Size%mebi != 0 || o.Size > maxContent:
		return fmt.Errorf("%w: size %d is no multiple of 1 MiB up to 1 TiB", ErrOptions, o.Size)
	case o.Source == "" && o.Size < 4*mebi:
		return fmt.Errorf("%w: an empty volume needs a size of 4 MiB or more", ErrOptions)
	case o.Partition < 0:
		return fmt.Errorf("%w: partition %d", ErrOptions, o.Partition)
	case len(o.Label) > 16:
		return fmt.Errorf("%w: label %.80q has more than 16 bytes", ErrOptions, o.Label)
	}
	if err := luks2.Check(luks2.Layout{Label: o.Label, Size: mebi}, slots...); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return nil
}

func randomUUID() [16]byte {
	id := [16]byte(secret.Random(16))
	id[6] = id[6]&0x0f | 0x40 // version 4, RFC 9562
	id[8] = id[8]&0x3f | 0x80
	return id
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
