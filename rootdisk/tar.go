package rootdisk

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/secexec/secexec/rootdisk/oci"
)

// addTar stages a tar archive, plain or compressed.
func (t *tree) addTar(ctx context.Context, source string, skipped func(string)) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := oci.Decompress(&contextReader{ctx, f})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer r.Close()
	if err := t.addArchive(r, skipped); err != nil {
		return err
	}
	if !t.named {
		return errNoTar
	}
	// A root has no such files, an image in an archive has nothing else.
	for name, transport := range map[string]string{"manifest.json": "docker-archive", "oci-layout": "oci-archive"} {
		if t.top.kids[name] != nil && t.top.kids["etc"] == nil && t.top.kids["usr"] == nil && t.top.kids["bin"] == nil {
			return fmt.Errorf("%w: it is a container image, not its files: say %s:%s", ErrSource, transport, source)
		}
	}
	return nil
}

var errNoTar = fmt.Errorf("%w: it is no tar archive, or a damaged one", ErrSource)

// addArchive stages the entries of one tar stream.
func (t *tree) addArchive(r io.Reader, skipped func(string)) error {
	for tr, n := tar.NewReader(r), 0; ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF):
			return errNoTar
		case err != nil:
			return err
		case n >= 2*maxEntries:
			return fmt.Errorf("%w: more than %d entries", ErrSource, 2*maxEntries)
		}
		if err := t.addTarEntry(h, tr, skipped); err != nil {
			return err
		}
	}
}

func (t *tree) addTarEntry(h *tar.Header, r io.Reader, skipped func(string)) error {
	name, err := tarPath(h.Name)
	if err != nil {
		return err
	}
	if t.layered {
		if done, err := t.whiteout(name); done || err != nil {
			return err
		}
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fmt.Errorf("%w: %s belongs to %d:%d", ErrSource, name, h.Uid, h.Gid)
	}
	i := &inode{mode: uint32(h.Mode & 0o7777), mtime: max(0, h.ModTime.Unix()), uid: uint32(h.Uid), gid: uint32(h.Gid)}
	if i.xattrs, err = tarXattrs(h.PAXRecords); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		i.mode |= modeFile
		return t.add(name, i, r, h.Size)
	case tar.TypeLink:
		to, err := tarPath(h.Linkname)
		if err != nil {
			return fmt.Errorf("hard link %s: %w", name, err)
		}
		return t.link(name, to)
	case tar.TypeSymlink:
		i.mode, i.target = modeSymlink|0o777, h.Linkname
	case tar.TypeDir:
		i.mode |= modeDir
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return fmt.Errorf("%w: device %s has number %d:%d", ErrSource, name, h.Devmajor, h.Devminor)
		}
		i.mode |= map[byte]uint32{tar.TypeChar: modeChar, tar.TypeBlock: modeBlock}[h.Typeflag]
		i.major, i.minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		i.mode |= modeFIFO
	case 's': // a socket, of star's
		skipped(name)
		return nil
	case 'V', 'M', tar.TypeXGlobalHeader: // a volume's name, its continuation's, an archive's comment
		return nil
	default:
		return fmt.Errorf("%w: %s is of tar type %q", ErrSource, name, h.Typeflag)
	}
	return t.add(name, i, nil, 0)
}

// tarXattrs collects extended attributes from PAX records: those of GNU tar,
// star and docker by name, those of libarchive in base64, access control lists
// as text.
func tarXattrs(records map[string]string) ([]xattr, error) {
	found := make(map[string][]byte)
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "LIBARCHIVE.xattr."); ok {
			name, err := url.PathUnescape(name)
			if err != nil {
				return nil, fmt.Errorf("%w: extended attribute %.80q", ErrSource, key)
			}
			b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("%w: extended attribute %.80q is no base64", ErrSource, key)
			}
			found[name] = b
		}
	}
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			found[name] = []byte(value)
		}
	}
	for key, name := range map[string]string{"SCHILY.acl.access": aclAccess, "SCHILY.acl.default": aclDefault} {
		if text := records[key]; text != "" && found[name] == nil {
			b, err := parseACL(name, text)
			if err != nil {
				return nil, err
			}
			if b != nil {
				found[name] = b
			}
		}
	}
	var out []xattr
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, xattr{name, found[name]})
	}
	return out, nil
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
