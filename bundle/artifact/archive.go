package artifact

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"

	"github.com/secexec/secexec/outfile"
)

// containerdName is the annotation by which ctr image import names an image.
const containerdName = "io.containerd.image.name"

func openArchive(ctx context.Context, reference, rest string, write bool) (*Place, error) {
	// The first colon ends the file's name, as skopeo has it: a tag may be a whole
	// reference.
	file, tag, tagged := strings.Cut(rest, ":")
	if file == "" || tagged && tag == "" {
		return nil, fmt.Errorf("%w: %q: write oci-archive:FILE:TAG", ErrReference, reference)
	}
	if !tagged {
		tag = "latest"
	}
	p := &Place{ref: tag, name: reference, archive: file}
	if write {
		return p, nil
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() { // a pipe would wait for its writer
		return nil, fmt.Errorf("open OCI archive %s: it is no regular file", file)
	}
	store, err := oci.NewFromTar(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("open OCI archive %s: %w", file, err)
	}
	p.target = readOnly{store}
	return p, nil
}

// archiveWriter writes a layout as a tar archive, whose bytes follow from what is
// pushed and in which order.
type archiveWriter struct {
	file *outfile.File

	mu    sync.Mutex
	tar   *tar.Writer
	there map[digest.Digest]bool
	index ocispec.Index
}

// createArchive makes an archive, or replaces one.
func createArchive(path string) (*archiveWriter, error) {
	f, err := outfile.Create(path, 0o644, true)
	if err != nil {
		return nil, err
	}
	a := &archiveWriter{file: f, tar: tar.NewWriter(f), there: make(map[digest.Digest]bool)}
	a.index.Versioned, a.index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	return a, nil
}

func (a *archiveWriter) writeLocked(name string, size int64, r io.Reader) error {
	err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = io.CopyN(a.tar, r, size)
	}
	if err != nil {
		return fmt.Errorf("%w: write archive: %w", errLocal, err)
	}
	return nil
}

// Push appends a blob. After an error the archive can't be used.
func (a *archiveWriter) Push(_ context.Context, d descriptor, r reader) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.there[d.Digest] {
		return errdef.ErrAlreadyExists
	}
	got := digest.SHA256.Digester()
	if err := a.writeLocked("blobs/sha256/"+d.Digest.Encoded(), d.Size, io.TeeReader(r, got.Hash())); err != nil {
		return err
	}
	if got.Digest() != d.Digest {
		return fmt.Errorf("%w: the bundle changed while it was read", errLocal)
	}
	a.there[d.Digest] = true
	return nil
}

// Exists tells whether a blob is there.
func (a *archiveWriter) Exists(_ context.Context, d descriptor) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.there[d.Digest], nil
}

// Tag names a manifest in the index.
func (a *archiveWriter) Tag(_ context.Context, d descriptor, ref string) error {
	names := map[string]string{ocispec.AnnotationRefName: ref}
	if r, err := registry.ParseReference(ref); err == nil && r.Reference != "" {
		names[containerdName] = ref
	}
	for k, v := range d.Annotations {
		names[k] = v
	}
	d.Annotations = names
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index.Manifests = append(a.index.Manifests, d)
	return nil
}

// Fetch and Resolve: an archive that is written is not read.
func (a *archiveWriter) Fetch(context.Context, descriptor) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// Resolve is as Fetch.
func (a *archiveWriter) Resolve(context.Context, string) (descriptor, error) {
	return descriptor{}, errors.ErrUnsupported
}

func (a *archiveWriter) commit() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	index, err := json.Marshal(a.index)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	layout := `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`
	err = a.writeLocked("index.json", int64(len(index)), strings.NewReader(string(index)))
	if err == nil {
		err = a.writeLocked("oci-layout", int64(len(layout)), strings.NewReader(layout))
	}
	if err = errors.Join(err, a.tar.Close()); err != nil {
		return err
	}
	return a.file.Commit()
}
