package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/secexec/secexec/bundle"
)

// tarball is a bundle folder as the one layer of a container image: a tar archive
// with bundle.json, then the parts in its order, and nothing else. One bundle has
// one such archive, byte for byte: what is not the parts' bytes follows from
// bundle.json. So a reader that has bundle.json knows where each byte of the
// layer belongs, and can go on anywhere.
//
// The archive is not compressed: the disks are encrypted, and would not become
// smaller.
type tarball struct {
	parts []bundle.Part
	fixed [][]byte // what is before each part, then what is behind the last one
	size  int64
}

// newTarball lays out a bundle.
func newTarball(m *bundle.Manifest) (*tarball, error) {
	text, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	list, _ := parts(m)
	t := &tarball{parts: list}
	last, err := tarHeader(bundle.ManifestFile, int64(len(text)))
	if err != nil {
		return nil, err
	}
	last = append(append(last, text...), padding(int64(len(text)))...)
	for _, part := range list {
		header, err := tarHeader(part.File, part.Size)
		if err != nil {
			return nil, err
		}
		last = append(last, header...)
		t.fixed = append(t.fixed, last)
		t.size += int64(len(last)) + part.Size
		last = padding(part.Size)
	}
	last = append(last, make([]byte, 2*tarBlock)...)
	t.fixed = append(t.fixed, last)
	t.size += int64(len(last))
	return t, nil
}

const tarBlock = 512

func padding(size int64) []byte { return make([]byte, -size&(tarBlock-1)) }

// tarHeader is what comes before a file's bytes: nothing in it is of this time,
// machine or user.
func tarHeader(name string, size int64) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o444, ModTime: time.Unix(0, 0)})
	if err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return out.Bytes(), nil
}

// readHead reads the beginning of a layer, as far as it says which bundle it is.
func readHead(r io.Reader) (*bundle.Manifest, error) {
	block := make([]byte, tarBlock)
	if _, err := io.ReadFull(r, block); err != nil {
		return nil, noBundle(err)
	}
	h, err := tar.NewReader(bytes.NewReader(block)).Next()
	if err != nil || h.Name != bundle.ManifestFile || h.Size > bundle.MaxManifestSize {
		return nil, noBundle(nil)
	}
	if want, err := tarHeader(bundle.ManifestFile, h.Size); err != nil || !bytes.Equal(block, want) {
		return nil, noBundle(err)
	}
	text := make([]byte, h.Size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, noBundle(err)
	}
	return bundle.ParseManifest(text)
}

// noBundle says that a layer is another image's; a failure to read it may pass.
func noBundle(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return invalid("it is a container image whose layer does not begin with a bundle's %s", bundle.ManifestFile)
}

// offset is where in the archive a part's bytes begin.
func (t *tarball) offset(part int) int64 {
	at := int64(len(t.fixed[0]))
	for i := range part {
		at += t.parts[i].Size + int64(len(t.fixed[i+1]))
	}
	return at
}

// digest reads all parts, which must be what bundle.json says, and returns the
// archive's digest.
func (t *tarball) digest(ctx context.Context, copyPart func(context.Context, bundle.Part, io.Writer) error) (digest.Digest, error) {
	d := digest.SHA256.Digester()
	for i, part := range t.parts {
		_, _ = d.Hash().Write(t.fixed[i])
		if err := copyPart(ctx, part, d.Hash()); err != nil {
			return "", err
		}
	}
	_, _ = d.Hash().Write(t.fixed[len(t.parts)])
	return d.Digest(), nil
}

// archived is the archive of an opened bundle. Close it.
type archived struct {
	*tarball
	files []*os.File
}

func openTarball(t *tarball, b *bundle.Bundle) (*archived, error) {
	a := &archived{tarball: t}
	for _, part := range t.parts {
		f, err := b.OpenPart(part)
		if err != nil {
			a.Close()
			return nil, err
		}
		a.files = append(a.files, f)
	}
	return a, nil
}

// Close closes the parts.
func (a *archived) Close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// ReadAt reads from anywhere in the archive.
func (a *archived) ReadAt(b []byte, at int64) (n int, err error) {
	begin := int64(0)
	for i, fixed := range a.fixed {
		if k := at + int64(n) - begin; n < len(b) && k < int64(len(fixed)) {
			n += copy(b[n:], fixed[k:])
		}
		if begin += int64(len(fixed)); i == len(a.parts) {
			break
		}
		size := a.parts[i].Size
		if k := at + int64(n) - begin; n < len(b) && k < size {
			m, err := a.files[i].ReadAt(b[n:min(len(b), n+int(min(size-k, int64(len(b)))))], k)
			if n += m; err != nil && !(errors.Is(err, io.EOF) && k+int64(m) == size) {
				return n, fmt.Errorf("%w: read %s: %w", errLocal, a.parts[i].File, err)
			}
		}
		begin += size
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
