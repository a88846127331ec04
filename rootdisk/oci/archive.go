package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/secexec/secexec/compressed"
)

// archive is a tar's regular files by name, read where they lie.
type archive struct {
	f     *os.File
	at    map[string]extent
	links map[string]string
}

type extent struct{ offset, size int64 }

const maxArchiveFiles = 64 << 10

// newArchive reads a tar's headers. It owns f.
func newArchive(f *os.File) (*archive, error) {
	a := &archive{f, make(map[string]extent), make(map[string]string)}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is no tar archive, or a damaged one: %w", ErrImage, err)
		}
		if len(a.at)+len(a.links) >= maxArchiveFiles {
			return nil, fmt.Errorf("%w: more than %d files", ErrImage, maxArchiveFiles)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// Readers of tar read whole blocks, so the file stands at the content.
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			a.at[name] = extent{offset, h.Size}
		case tar.TypeSymlink: // docker save links equal layers
			a.links[name] = path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
	return a, nil
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	name = path.Clean("/" + name)[1:]
	for range 4 {
		if to, ok := a.links[name]; ok {
			name = to
		}
	}
	e, ok := a.at[name]
	if !ok {
		return nil, fmt.Errorf("%w: the archive has no file %.100q", ErrImage, name)
	}
	return io.NopCloser(io.NewSectionReader(a.f, e.offset, e.size)), nil
}

func (a *archive) has(name string) bool {
	_, file := a.at[name]
	_, link := a.links[name]
	return file || link
}

func (a *archive) Close() error { return a.f.Close() }

func openArchive(ctx context.Context, transport, rest string, o Options) (*Image, error) {
	name, tag, _ := strings.Cut(rest, ":")
	f, err := openPlain(ctx, name, o.Temp)
	if err != nil {
		return nil, err
	}
	a, err := newArchive(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	var img *Image
	if transport == "oci-archive" {
		img, err = readLayout(ctx, a, tag, o)
	} else {
		img, err = readDocker(ctx, a, tag, o)
	}
	if err != nil {
		a.Close()
	}
	return img, err
}

// openPlain opens a tar file; of a compressed one it makes a plain copy in a
// file without a name.
func openPlain(ctx context.Context, name, temp string) (*os.File, error) {
	f, err := os.OpenFile(name, noWait, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%w: %s is no regular file", ErrImage, name), err)
	}
	head := make([]byte, 6)
	if n, _ := f.ReadAt(head, 0); detect(head[:n]) == compressed.None {
		return f, nil
	}
	defer f.Close()
	r, err := Decompress(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	defer r.Close()
	plain, err := os.CreateTemp(temp, "image-*")
	if err != nil {
		return nil, err
	}
	err = os.Remove(plain.Name())
	buf := make([]byte, 1<<20)
	for err == nil {
		var n int
		if n, err = r.Read(buf); n > 0 {
			if _, e := plain.Write(buf[:n]); e != nil {
				err = e
			}
		}
		if err == nil {
			err = ctx.Err()
		}
	}
	if errors.Is(err, io.EOF) {
		_, err = plain.Seek(0, io.SeekStart)
	}
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return plain, nil
}

// dockerArchive is docker save's archive: manifest.json names configuration and
// layers by file (moby, image/spec/v1.2.md). Only the layers' digests are in the
// configuration, and the configuration's in its name.
type dockerArchive struct {
	files
	config string
	layers map[string]string // by digest
}

func (d *dockerArchive) blob(_ context.Context, x Descriptor) (io.ReadCloser, error) {
	return d.open(d.layers[x.Digest])
}

func readDocker(ctx context.Context, f files, tag string, o Options) (*Image, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := readJSON(f, "manifest.json", &list); err != nil {
		return nil, err
	}
	var tags []string
	found := -1
	for i, m := range list {
		tags = append(tags, m.RepoTags...)
		if tag == "" && len(list) == 1 || tag != "" && (slices.Contains(m.RepoTags, tag) || slices.Contains(m.RepoTags, tag+":latest") ||
			slices.Contains(m.RepoTags, "docker.io/library/"+tag)) {
			found = i
		}
	}
	if found < 0 {
		return nil, fmt.Errorf("%w: the archive has no single image %.80q: choose one of %.400q", ErrReference, tag, tags)
	}
	m := list[found]
	b, err := readFile(f, m.Config)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(b, len(m.Layers), o.Architecture)
	if err != nil {
		return nil, err
	}
	d := &dockerArchive{files: f, config: m.Config, layers: make(map[string]string)}
	img := &Image{Config: c.Config, diffIDs: c.RootFS.DiffIDs, from: d}
	h, _, _ := parseDigest("sha256:" + strings.Repeat("0", 64))
	h.Write(b)
	img.Digest = fmt.Sprintf("sha256:%x", h.Sum(nil))
	// The configuration's name is its digest: ID.json, or blobs/sha256/ID.
	if id := strings.TrimSuffix(path.Base(m.Config), ".json"); len(id) == 64 && "sha256:"+id != img.Digest {
		return nil, fmt.Errorf("%w: the configuration is not %s (damaged, or changed)", ErrDigest, m.Config)
	}
	for i, name := range m.Layers {
		digest := c.RootFS.DiffIDs[i]
		d.layers[digest] = name
		img.layers = append(img.layers, Descriptor{Digest: digest, Size: -1})
	}
	return img, ctx.Err()
}
