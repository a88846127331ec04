package rootdisk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/rootdisk/luks2"
)

// makeExt4 makes a file system of a tree in a file without a name, and returns
// it with its size.
//
// mke2fs copies the files; each then gets the owner, mode, time and device number
// that a user without rights could not give a staged copy, and debugfs sets
// extended attributes. e2fsck has the last word.
//
// Nothing in it depends on the machine or the time: UUID and hash seed come from
// the volume's ID, times from the files.
//
// One that is never written to gets neither journal nor head-room, and more room
// only where that turns out too tight.
func makeExt4(ctx context.Context, work string, t *tree, id [16]byte, o *Options) (*os.File, int64, error) {
	full := o.ReadOnly || o.Verity
	sizes := []int64{o.Size}
	if need := t.need(); o.Size == 0 {
		// A quarter more than the content, and room for journal and inode tables.
		sizes[0] = max(coarse(need+need/4+96*mebi), mebi)
		if full {
			sizes = []int64{coarse(need + need/16 + t.inodes(0, full)*256 + 4*mebi), sizes[0]}
		}
	}
	for i, size := range sizes {
		f, err := nameless(work)
		if err != nil {
			return nil, 0, fmt.Errorf("make file system: %w", err)
		}
		if err = f.Truncate(size); err == nil {
			err = t.build(ctx, work, f, size, id, o.Label, full)
		}
		if err == nil {
			return f, size, nil
		}
		f.Close()
		if i == len(sizes)-1 || !errors.Is(err, ErrOptions) && !errors.Is(err, e2fs.ErrFailed) {
			return nil, 0, fmt.Errorf("make file system: %w", err)
		}
	}
	panic("no size to try")
}

// inodes is how many a file system of a size has.
func (t *tree) inodes(size int64, full bool) int64 {
	if full {
		return int64(t.entries) + 64 // and the reserved ones
	}
	return coarse(max(int64(t.entries)*2, int64(t.entries)+8192, size/(32<<10)))
}

// coarse rounds up to four significant bits, at most an eighth more: a small
// change of the content then leaves size and layout as they are.
func coarse(n int64) int64 {
	step := int64(1) << max(0, bits.Len64(uint64(n))-4)
	return (n + step - 1) / step * step
}

// nameless makes a file without a name, so that no killed maker leaves its plain
// text behind.
func nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		return f, nil
	}
	if f, err = os.CreateTemp(dir, "plain-*"); err != nil { // a file system that has no such files
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// seedUUID is the file system's UUID and hash seed. It is not the LUKS2 header's,
// so that /dev/disk/by-uuid tells the two apart, and two volumes never share it.
func seedUUID(id [16]byte) [16]byte {
	sum := sha256.Sum256(append([]byte("secexec ext4 UUID\x00"), id[:]...))
	out := [16]byte(sum[:16])
	out[6] = out[6]&0x0f | 0x80 // version 8, RFC 9562
	out[8] = out[8]&0x3f | 0x80
	return out
}

// features are given in full, so that no machine's mke2fs.conf has a say and
// every kernel that can be an SE guest mounts the result.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// need is the room that the tree takes: content in whole blocks, and folders.
func (t *tree) need() (n int64) {
	seen := make(map[*inode]bool)
	_ = t.each(func(_ string, at *node) error {
		n += 256
		if at.kind() == modeDir {
			n += 4096
		}
		if !seen[at.inode] {
			seen[at.inode] = true
			n += at.stored
		}
		return nil
	})
	return n
}

// made is the time of what is no file: superblock, journal, lost+found. It is
// 2000-01-01 whatever the files, so that these stay when the files change.
const made = 946684800

func (t *tree) build(ctx context.Context, work string, img *os.File, size int64, id [16]byte, label string, full bool) error {
	features, reserved := features, "1"
	if full {
		features, reserved = strings.Replace(features, "has_journal,", "", 1), "0"
	}
	uuid := luks2.FormatUUID(seedUUID(id))
	if out, err := run(ctx, img, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", reserved, "-I", "256", "-N", fmt.Sprint(t.inodes(size, full)), "-L", label, "-U", uuid,
		"-O", features, "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed="+uuid, "-d", t.dir, e2fs.Image); err != nil {
		if strings.Contains(out, "Could not allocate") || strings.Contains(out, "No space left") {
			return fmt.Errorf("%w: %d MiB hold no %d MiB of files: ask for a larger size", ErrOptions, size/mebi, t.need()/mebi)
		}
		return err
	}
	if t.root == nil {
		if err := t.unchanged(); err != nil {
			return err
		}
	} else if err := t.setXattrs(ctx, work, img); err != nil {
		return err
	}
	if err := t.setInodes(img, size); err != nil {
		return err
	}
	if _, err := run(ctx, img, nil, "e2fsck", "-fn", e2fs.Image); err != nil {
		return fmt.Errorf("check it: %w", err)
	}
	return nil
}

// setXattrs sets the extended attributes of a staged tree; mke2fs has copied
// those of a folder.
func (t *tree) setXattrs(ctx context.Context, work string, img *os.File) error {
	var s bytes.Buffer
	done := make(map[*inode]bool)
	values := 0
	err := t.each(func(name string, n *node) error {
		if done[n.inode] {
			return nil
		}
		done[n.inode] = true
		for _, x := range n.xattrs {
			value := filepath.Join(work, fmt.Sprintf("xattr-%d", values))
			values++
			if err := os.WriteFile(value, x.value, 0o600); err != nil {
				return fmt.Errorf("set extended attribute: %w", err)
			}
			fmt.Fprintf(&s, "ea_set -f %s %s %s\n", e2fs.Quote(value), e2fs.Quote(filepath.Join("/", name)), e2fs.Quote(x.name))
		}
		return nil
	})
	if err != nil || values == 0 {
		return err
	}
	out, err := run(ctx, img, s.Bytes(), "debugfs", "-w", "-f", "-", e2fs.Image)
	if err != nil {
		return fmt.Errorf("set extended attributes: %w", err)
	}
	// debugfs exits with 0 whatever its commands do; all it may say on standard
	// error is its own version.
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "debugfs ") && strings.TrimSpace(line) != "" {
			return fmt.Errorf("set extended attributes: %w: debugfs: %s", e2fs.ErrFailed, strings.TrimSpace(line))
		}
	}
	return nil
}

// run runs a program of e2fsprogs on an image, which it finds as e2fs.Image, and
// returns what it said on standard error.
func run(ctx context.Context, img *os.File, stdin []byte, name string, args ...string) (string, error) {
	return e2fs.Call{
		Program: name, Args: args, Stdin: stdin, Image: img, Quiet: true,
		Env: []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", made), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", made)}, // the one before, the other since 1.47.1
	}.Run(ctx)
}
