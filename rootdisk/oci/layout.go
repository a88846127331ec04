package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// files are the named files of a layout or an archive.
type files interface {
	open(name string) (io.ReadCloser, error)
	io.Closer
}

// layout is an OCI layout (image-spec, image-layout.md).
type layout struct{ files }

func (l layout) blob(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	_, digits, err := parseDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	alg, _, _ := strings.Cut(d.Digest, ":")
	return l.open("blobs/" + alg + "/" + digits)
}

// noWait opens a pipe without waiting for its writer.
const noWait = os.O_RDONLY | syscall.O_NONBLOCK

// folder is a folder's files; links out of it lead nowhere.
type folder struct{ *os.Root }

func (f folder) open(name string) (io.ReadCloser, error) {
	file, err := f.OpenFile(name, noWait, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, errors.Join(fmt.Errorf("%w: %s is no regular file", ErrImage, name), err)
	}
	return file, nil
}

func openLayout(ctx context.Context, rest string, o Options) (*Image, error) {
	path, tag, _ := strings.Cut(rest, ":")
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	img, err := readLayout(ctx, folder{root}, tag, o)
	if err != nil {
		root.Close()
	}
	return img, err
}

// readLayout opens a layout's only image, or the one with a tag.
func readLayout(ctx context.Context, f files, tag string, o Options) (*Image, error) {
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := readJSON(f, "oci-layout", &version); err != nil {
		return nil, err
	}
	if version.Version != "1.0.0" {
		return nil, fmt.Errorf("%w: layout of version %.20q, wants 1.0.0", ErrImage, version.Version)
	}
	b, err := readFile(f, "index.json")
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("read index.json: %w", err)
	}
	if m.Config != nil {
		return nil, fmt.Errorf("%w: its index.json is no index", ErrImage)
	}
	var found []Descriptor
	var tags []string
	for _, d := range m.Manifests {
		name := d.Annotations["org.opencontainers.image.ref.name"]
		if tag == "" || name == tag {
			found = append(found, d)
		}
		tags = append(tags, fmt.Sprintf("%.80q", name))
	}
	switch {
	case len(found) == 1:
		return resolve(ctx, layout{f}, found[0], o.Architecture)
	case tag == "" && len(found) > 1:
		if d, err := m.choose(o.Architecture); err == nil {
			return resolve(ctx, layout{f}, d, o.Architecture)
		}
		return nil, fmt.Errorf("%w: the layout has several images: choose one by its tag: %.400s", ErrReference, strings.Join(tags, ", "))
	}
	return nil, fmt.Errorf("%w: the layout has no single image %.80q, but %.400s", ErrReference, tag, strings.Join(tags, ", "))
}

func readFile(f files, name string) ([]byte, error) {
	r, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrImage, name, maxDocument)
	}
	return b, err
}

func readJSON(f files, name string, v any) error {
	b, err := readFile(f, name)
	if err != nil {
		return err
	}
	return unmarshal(b, name, v)
}
