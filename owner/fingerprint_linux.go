package owner

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fingerprint returns a digest of everything of a volume's source that reaches
// the disk, and of the options that shape it: equal fingerprints mean that the
// disk need not be made again. Contents are read, times alone are not trusted.
// It is "" for a source that is neither a folder nor a file here.
func fingerprint(ctx context.Context, r FileSystem) (string, error) {
	h := &printer{ctx: ctx, h: sha256.New(), links: make(map[[2]uint64]string)}
	h.text(strings.TrimSpace("secexec volume 1 " + modeWord(r.Mode) + " " + strings.TrimPrefix(r.FSType, "ext4") + strings.Join(r.folders, " ")))
	if r.ReadOnly {
		h.text("read-only") // it has no journal then
	}
	h.number(uint64(r.Size))
	h.number(uint64(r.Partition))
	if r.Source == "" { // an empty file system
		return hex.EncodeToString(h.h.Sum(nil)), nil
	}
	info, err := os.Stat(r.Source)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return "", nil // rootdisk has the words for what it is
	}
	if info.IsDir() {
		err = filepath.WalkDir(r.Source, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(r.Source, path)
			if err != nil {
				return err
			}
			return h.entry(path, rel)
		})
	} else {
		h.text(filepath.Base(r.Source)) // its suffix may tell its kind
		err = h.content(r.Source)
	}
	if err != nil {
		return "", fmt.Errorf("read root file system: %w", err)
	}
	return hex.EncodeToString(h.h.Sum(nil)), nil
}

// printer feeds a tree to a digest. Every value is preceded by its length or
// has a fixed one, so that no two trees feed the same bytes.
type printer struct {
	ctx   context.Context
	h     hash.Hash
	links map[[2]uint64]string // device and inode to the first name
}

func (p *printer) number(n uint64) { _ = binary.Write(p.h, binary.BigEndian, n) }

func (p *printer) text(s string) {
	p.number(uint64(len(s)))
	_, _ = io.WriteString(p.h, s)
}

func (p *printer) entry(path, rel string) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	p.text(rel)
	for _, n := range []uint64{uint64(st.Mode), uint64(st.Uid), uint64(st.Gid), uint64(st.Rdev), uint64(st.Mtim.Sec)} {
		p.number(n)
	}
	if err := p.xattrs(path); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		p.text(target)
	case unix.S_IFREG:
		id := [2]uint64{uint64(st.Dev), st.Ino}
		first, again := p.links[id]
		p.text(first)
		if again {
			return nil
		}
		p.links[id] = rel
		return p.content(path)
	}
	return nil
}

func (p *printer) xattrs(path string) error {
	n, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		n, err = 0, nil
	}
	if err != nil {
		return &fs.PathError{Op: "list attributes of", Path: path, Err: err}
	}
	list := make([]byte, n)
	if n > 0 {
		if n, err = unix.Llistxattr(path, list); err != nil {
			return &fs.PathError{Op: "list attributes of", Path: path, Err: err}
		}
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	p.number(uint64(len(names)))
	for _, name := range names {
		p.text(name)
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			n = 0 // unreadable for the build too
		}
		p.text(string(value[:n]))
	}
	return nil
}

func (p *printer) content(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 1<<40 { // rootdisk takes no more; reading it would take hours
		return fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), int64(1<<40))
	}
	p.number(uint64(info.Size()))
	_, err = io.CopyBuffer(p.h, io.LimitReader(&contextReader{p.ctx, f}, info.Size()), make([]byte, 1<<20))
	return err
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
