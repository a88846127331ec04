package rootdisk

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// addTar stages a tar archive: plain, gzip, xz or zstd, told by its first bytes.
func (t *tree) addTar(ctx context.Context, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decompress(&contextReader{ctx, f})
	if err != nil {
		return err
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && len(t.entries) > 0:
			return nil
		case errors.Is(err, tar.ErrHeader) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: it is no tar archive, or a damaged one", ErrSource)
		case err != nil:
			return err
		}
		if err := t.addTarEntry(h, tr); err != nil {
			return err
		}
	}
}

func (t *tree) addTarEntry(h *tar.Header, r io.Reader) error {
	name, err := tarPath(h.Name)
	if err != nil {
		return err
	}
	e := entry{
		path: name, mode: uint32(h.Mode & 0o7777), mtime: max(0, h.ModTime.Unix()),
		uid: uint32(h.Uid), gid: uint32(h.Gid), major: uint32(h.Devmajor), minor: uint32(h.Devminor),
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fmt.Errorf("%w: %s belongs to %d:%d", ErrSource, name, h.Uid, h.Gid)
	}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			e.xattrs = append(e.xattrs, xattr{attr, []byte(value)})
		}
	}
	size := int64(0)
	switch h.Typeflag {
	case tar.TypeReg:
		e.mode, size = e.mode|modeFile, h.Size
	case tar.TypeLink:
		if e.link, err = tarPath(h.Linkname); err != nil {
			return fmt.Errorf("hard link %s: %w", name, err)
		}
		if first, ok := t.seen[e.link]; !ok || first&modeType == modeDir {
			return fmt.Errorf("%w: hard link %s leads to %s, which is not there before it", ErrSource, name, e.link)
		}
		e.mode = t.seen[e.link]
	case tar.TypeSymlink:
		e.mode = modeSymlink | 0o777
	case tar.TypeDir:
		e.mode |= modeDir
		if t.seen[name]&modeType == modeDir {
			return t.again(e)
		}
	case tar.TypeChar:
		e.mode |= modeChar
	case tar.TypeBlock:
		e.mode |= modeBlock
	case tar.TypeFifo:
		e.mode |= modeFIFO
	default:
		return fmt.Errorf("%w: %s is of tar type %q", ErrSource, name, h.Typeflag)
	}
	return t.add(e, r, size, h.Linkname)
}

// again takes over what an archive says later of a folder that it named, or
// implied, before.
func (t *tree) again(e entry) error {
	for i := range t.entries {
		if t.entries[i].path == e.path {
			t.entries[i] = e
			return nil
		}
	}
	return t.add(e, nil, 0, "") // the root itself
}

// tarPath cleans a name of the archive. Only a leading ./ and slashes at the end
// are habits of tar's; anything else that is not clean is refused.
func tarPath(name string) (string, error) {
	p := strings.TrimRight(strings.TrimPrefix(name, "./"), "/")
	if p == "" || p == "." {
		if strings.HasPrefix(name, "/") {
			return "", fmt.Errorf("%w: name %.80q is absolute", ErrSource, name)
		}
		return ".", nil
	}
	if path.IsAbs(p) || p != path.Clean(p) || p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("%w: name %.80q leads out of the root", ErrSource, name)
	}
	return p, nil
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	magic, _ := b.Peek(6)
	switch {
	case strings.HasPrefix(string(magic), "\x1f\x8b"):
		return gzip.NewReader(b)
	case strings.HasPrefix(string(magic), "\xfd7zXZ\x00"):
		x, err := xz.NewReader(b)
		return io.NopCloser(x), err
	case strings.HasPrefix(string(magic), "\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
