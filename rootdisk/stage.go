package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// ErrSource says that a source holds what no root may hold.
var ErrSource = errors.New("source refused")

// Bounds of a source.
const (
	maxEntries    = 4 << 20
	maxPath       = 4096
	maxXattrBytes = 64 << 10
)

// File types in a mode, as in ext4 and stat(2).
const (
	modeType    = 0o170000
	modeFile    = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
	modeFIFO    = 0o010000
)

// entry is one file as it shall be in the root.
type entry struct {
	path         string // relative to the root, clean
	link         string // hard link: path of the first name
	mode         uint32 // type and permissions
	uid, gid     uint32
	major, minor uint32
	mtime        int64 // seconds since 1970
	xattrs       []xattr
}

type xattr struct {
	name  string
	value []byte
}

func (e *entry) isDevice() bool { return e.mode&modeType == modeChar || e.mode&modeType == modeBlock }

// tree is a staged source: contents under dir, owned by whoever runs this, and
// beside it what each entry shall be.
type tree struct {
	dir     string
	entries []entry
	bytes   int64 // of content, in whole blocks

	root *os.Root
	seen map[string]uint32 // mode by path
}

// stage copies a source into a new folder dir.
func stage(ctx context.Context, source, dir string) (*tree, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("stage root: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("stage root: %w", err)
	}
	defer root.Close()
	t := &tree{dir: dir, root: root, seen: map[string]uint32{".": modeDir}}
	switch {
	case info.IsDir():
		err = t.addFolder(ctx, source)
	case info.Mode().IsRegular():
		err = t.addTar(ctx, source)
	default:
		err = fmt.Errorf("%w: it is neither a folder nor a file", ErrSource)
	}
	if err != nil {
		return nil, fmt.Errorf("read root %s: %w", source, err)
	}
	if len(t.entries) == 0 {
		return nil, fmt.Errorf("read root %s: %w: it is empty", source, ErrSource)
	}
	return t, nil
}

// add stages one entry; r gives a regular file's content, target a symbolic
// link's. All paths are resolved inside the staging folder.
func (t *tree) add(e entry, r io.Reader, size int64, target string) error {
	if err := t.check(&e); err != nil {
		return err
	}
	if e.path == "." {
		t.entries = append(t.entries, e)
		return nil
	}
	if err := t.parents(e.path); err != nil {
		return err
	}
	var err error
	switch kind := e.mode & modeType; {
	case e.link != "":
		err = t.root.Link(e.link, e.path)
	case kind == modeDir:
		err = t.root.Mkdir(e.path, 0o700)
	case kind == modeSymlink:
		err = t.root.Symlink(target, e.path)
	case kind == modeFile:
		err = t.file(e.path, r, size)
	case kind == modeFIFO:
		return fmt.Errorf("%w: %s is a named pipe", ErrSource, e.path)
	case e.isDevice(): // made by debugfs, in the image alone
	default:
		return fmt.Errorf("%w: %s has type 0%o", ErrSource, e.path, e.mode&modeType)
	}
	if err != nil {
		return fmt.Errorf("stage %s: %w", e.path, err)
	}
	if _, twice := t.seen[e.path]; !twice {
		t.seen[e.path] = e.mode
	}
	t.bytes += (size+4095)&^4095 + 256
	t.entries = append(t.entries, e)
	return nil
}

// check refuses what may not be in a root, or twice in it.
func (t *tree) check(e *entry) error {
	switch {
	case len(t.entries) >= maxEntries:
		return fmt.Errorf("%w: more than %d entries", ErrSource, maxEntries)
	case len(e.path) > maxPath || strings.ContainsAny(e.path, "\n\x00"):
		return fmt.Errorf("%w: name %.80q", ErrSource, e.path)
	case e.path != path.Clean(e.path) || path.IsAbs(e.path) || e.path == ".." || strings.HasPrefix(e.path, "../"):
		return fmt.Errorf("%w: name %.80q leads out of the root", ErrSource, e.path)
	}
	if mode, twice := t.seen[e.path]; twice && e.path != "." {
		return fmt.Errorf("%w: %s stands in it twice (modes 0%o and 0%o)", ErrSource, e.path, mode, e.mode)
	}
	total := 0
	for _, x := range e.xattrs {
		if total += len(x.value); strings.ContainsAny(x.name, "\n\x00\" ") || total > maxXattrBytes {
			return fmt.Errorf("%w: extended attribute %.80q of %s", ErrSource, x.name, e.path)
		}
	}
	return nil
}

// parents makes the folders above a path that the source did not name, as tar
// does: 0755, root's.
func (t *tree) parents(name string) error {
	dir := path.Dir(name)
	if mode, ok := t.seen[dir]; ok {
		if mode&modeType != modeDir {
			return fmt.Errorf("%w: %s is to lie in %s, which is no folder", ErrSource, name, dir)
		}
		return nil
	}
	return t.add(entry{path: dir, mode: modeDir | 0o755}, nil, 0, "")
}

func (t *tree) file(name string, r io.Reader, size int64) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%w: it has %d bytes, %d were announced", ErrSource, n, size)
	}
	return errors.Join(err, f.Close())
}
