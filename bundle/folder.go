package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Errors of a bundle's folder that callers branch on.
var (
	ErrMissing = errors.New("part of the bundle is missing")
	ErrDamaged = errors.New("part of the bundle is damaged")
)

// Folder gives a bundle's files by their plain names. It does not wait at a pipe
// and does not lead out of the folder.
type Folder interface {
	Open(name string) (*os.File, error)
	Name() string // for messages
	Close() error
}

// Bundle is an opened bundle folder: the manifest is parsed, the parts are not
// read yet. Close it.
type Bundle struct {
	Manifest Manifest
	folder   Folder
}

// Open opens the bundle in a folder. Parts are looked up inside the folder
// only; a link that leads out of it is refused.
func Open(dir string) (*Bundle, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	return OpenFolder(rootFolder{root})
}

// OpenFolder opens the bundle in a folder that is open already, which it closes:
// with the bundle, or after an error.
func OpenFolder(f Folder) (*Bundle, error) {
	text, err := readBounded(f, ManifestFile, MaxManifestSize)
	if err != nil {
		f.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("open bundle %s: %w: no %s: name a folder made by secexec build", f.Name(), ErrMissing, ManifestFile)
		}
		return nil, fmt.Errorf("open bundle %s: %w", f.Name(), err)
	}
	m, err := ParseManifest(text)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open bundle %s: read %s: %w", f.Name(), ManifestFile, err)
	}
	return &Bundle{Manifest: *m, folder: f}, nil
}

// Close closes the folder.
func (b *Bundle) Close() error { return b.folder.Close() }

// rootFolder is a folder that this process may read.
type rootFolder struct{ *os.Root }

// Open opens a pipe without waiting for its writer; it reads as empty.
func (r rootFolder) Open(name string) (*os.File, error) {
	return r.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// OpenPart opens a part for reading. Its size is checked, its digest is not.
func (b *Bundle) OpenPart(p Part) (*os.File, error) {
	f, err := b.folder.Open(p.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w: transfer the bundle again", p.File, ErrMissing)
	} else if err != nil {
		return nil, fmt.Errorf("open part of the bundle: %w", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("open %s: %w: it is no regular file", p.File, ErrDamaged)
	case info.Size() != p.Size:
		err = fmt.Errorf("open %s: %w: it has %d bytes, the manifest says %d: transfer the bundle again", p.File, ErrDamaged, info.Size(), p.Size)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

// CopyPart copies a part to dst and checks its digest on the way. After an
// error dst holds nothing of use.
func (b *Bundle) CopyPart(ctx context.Context, p Part, dst io.Writer) error {
	src, err := b.OpenPart(p)
	if err != nil {
		return err
	}
	defer src.Close()
	digest := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(dst, digest), &contextReader{ctx, io.LimitReader(src, p.Size)}, make([]byte, 1<<20))
	if err != nil {
		return fmt.Errorf("copy %s: %w", p.File, err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); n != p.Size || got != p.SHA256 {
		return fmt.Errorf("copy %s: %w: its SHA-256 is %.16s…, the manifest says %.16s…: transfer the bundle again", p.File, ErrDamaged, got, p.SHA256)
	}
	return nil
}

// Verify reads every part and checks its digest.
func (b *Bundle) Verify(ctx context.Context) error {
	for _, p := range b.Manifest.Parts() {
		if err := b.CopyPart(ctx, p, io.Discard); err != nil {
			return err
		}
	}
	return nil
}

// Describe measures a file for a manifest.
func Describe(ctx context.Context, name string, r io.Reader) (Part, error) {
	digest := sha256.New()
	n, err := io.CopyBuffer(digest, &contextReader{ctx, r}, make([]byte, 1<<20))
	if err != nil {
		return Part{}, fmt.Errorf("read %s: %w", name, err)
	}
	return Part{File: name, Size: n, SHA256: hex.EncodeToString(digest.Sum(nil))}, nil
}

func readBounded(folder Folder, name string, limit int64) ([]byte, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// contextReader ends a long copy when its context ends.
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
