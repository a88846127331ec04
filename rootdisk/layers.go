package rootdisk

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/secexec/secexec/rootdisk/oci"
)

// addImage stages an image's layers, one over the other.
func (t *tree) addImage(ctx context.Context, img *oci.Image, skipped func(string)) error {
	t.layered = true
	for t.layer = range img.Layers() {
		r, err := img.Layer(ctx, t.layer)
		if err != nil {
			return err
		}
		err = t.addArchive(&contextReader{ctx, r}, skipped)
		// The digest has the first word: what does not match it was never the image.
		if e := r.Close(); e != nil {
			err = e
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", t.layer+1, err)
		}
	}
	return nil
}

// Names by which a layer takes away what earlier ones left (OCI image-spec,
// layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // a storage driver's own files, which are no content
)

// whiteout obeys an entry that is one; done says that it was.
func (t *tree) whiteout(name string) (done bool, err error) {
	dir, base := path.Split(name)
	for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			if strings.HasPrefix(part, aufsPrefix) {
				return true, nil
			}
			return true, fmt.Errorf("%w: %.80q lies in a whiteout", ErrSource, name)
		}
	}
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return false, nil
	}
	if base != opaqueName && strings.HasPrefix(base, aufsPrefix) {
		return true, nil
	}
	victim := strings.TrimPrefix(base, whiteoutPrefix)
	if victim == "" || victim == "." || victim == ".." {
		return true, fmt.Errorf("%w: whiteout %.80q names no file", ErrSource, name)
	}
	if err := checkPath(name); err != nil {
		return true, err
	}
	t.named = true
	where, parent := t.find(name)
	if parent == nil {
		return true, nil
	}
	if base == opaqueName {
		for kid := range parent.kids {
			if err := t.removeEarlier(parent, where, kid); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	if parent.kids[victim] == nil {
		return true, nil
	}
	return true, t.removeEarlier(parent, where, victim)
}

// removeEarlier removes what earlier layers left at a name and below it, and
// keeps what this one has put there, in whatever order.
func (t *tree) removeEarlier(parent *node, dir, base string) error {
	n := parent.kids[base]
	for kid := range n.kids {
		if err := t.removeEarlier(n, path.Join(dir, base), kid); err != nil {
			return err
		}
	}
	if n.layer == t.layer || len(n.kids) > 0 {
		return nil
	}
	return t.remove(parent, dir, base)
}
