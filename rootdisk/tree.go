package rootdisk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrSource says that a source holds what no root may hold.
var ErrSource = errors.New("source refused")

// Bounds of a source: what a hostile archive or image can make of this machine.
const (
	maxEntries    = 4 << 20
	maxPath       = 4096     // bytes of a path, as PATH_MAX
	maxName       = 255      // bytes of a name in ext4
	maxContent    = 1 << 40  // bytes of all files, holes included; less where a size is asked for
	maxXattrBytes = 64 << 10 // of one file
	maxLinks      = 65000    // names of a file in ext4
	maxHops       = 40       // symbolic links on the way to a file, as the kernel's
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

// inode is a file as it shall be in the root, whatever its names.
type inode struct {
	mode         uint32 // type and permissions
	uid, gid     uint32
	major, minor uint32
	mtime        int64 // seconds since 1970
	xattrs       []xattr
	target       string // of a symbolic link
	size         int64  // of a file, holes included
	stored       int64  // bytes of it that are no holes, in whole blocks
	links        int
	seen         stamp // of a folder's files: as they were when they were looked at
}

func (i *inode) kind() uint32 { return i.mode & modeType }

// device tells what a user without rights can't make in a folder: a pipe stands
// in for it there.
func (i *inode) device() bool { return i.kind() == modeChar || i.kind() == modeBlock }

type xattr struct {
	name  string
	value []byte
}

// node is a name in the tree.
type node struct {
	*inode
	kids  map[string]*node // of a folder
	layer int              // that named it last
}

// tree is a source: files' contents in folders under dir, which may be owned by
// whoever runs this, and beside it what each shall be.
type tree struct {
	dir     string
	top     *node
	entries int   // names but the top's
	content int64 // bytes of files, holes included
	limit   int64 // of content
	layer   int
	layered bool // later layers replace what earlier ones left
	named   bool // the source said something of any name

	root *os.Root // where files are staged; nil of a folder, which is read where it lies
}

func newTree(dir string, limit int64) (*tree, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("stage root: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("stage root: %w", err)
	}
	return &tree{dir: dir, limit: limit, root: root, top: newFolder(0)}, nil
}

// newFolder is a folder that a source implies and does not name, as tar makes
// it: 0755, root's.
func newFolder(layer int) *node {
	return &node{inode: &inode{mode: modeDir | 0o755, links: 1}, kids: make(map[string]*node), layer: layer}
}

// add puts a file at a path, which is relative and clean; r gives a regular
// file's content, of size bytes.
func (t *tree) add(name string, i *inode, r io.Reader, size int64) error {
	if err := checkPath(name); err != nil {
		return err
	}
	if err := i.check(name); err != nil {
		return err
	}
	t.named = true
	if name == "." {
		if i.kind() != modeDir {
			return fmt.Errorf("%w: its root is no folder", ErrSource)
		}
		t.top.inode = i
		return nil
	}
	dir, parent, err := t.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	name = path.Join(dir, base)
	if old := parent.kids[base]; old != nil {
		if old.kind() == modeDir && i.kind() == modeDir {
			old.inode, old.layer = i, t.layer
			return nil
		}
		if !t.layered {
			return fmt.Errorf("%w: %s stands in it twice (modes 0%o and 0%o)", ErrSource, name, old.mode, i.mode)
		}
		if err := t.remove(parent, dir, base); err != nil {
			return err
		}
	}
	if i.kind() == modeFile {
		if size < 0 || size > t.limit-t.content {
			return fmt.Errorf("%w: its files have more than %d MiB", ErrSource, t.limit/mebi)
		}
		t.content += size
		i.size = size
	}
	if t.root != nil {
		if err := t.stage(name, i, r); err != nil {
			return fmt.Errorf("stage %s: %w", name, err)
		}
	}
	n := &node{inode: i, layer: t.layer}
	if i.kind() == modeDir {
		n.kids = make(map[string]*node)
	}
	return t.attach(parent, base, n)
}

// link gives the file at to another name.
func (t *tree) link(name, to string) error {
	if err := errors.Join(checkPath(name), checkPath(to)); err != nil {
		return err
	}
	toDir, toParent := t.find(to)
	first := (*node)(nil)
	if toParent != nil {
		first = toParent.kids[path.Base(to)]
	}
	if first == nil || first.kind() == modeDir {
		return fmt.Errorf("%w: hard link %s leads to %s, which is not there before it", ErrSource, name, to)
	}
	if first.links >= maxLinks {
		return fmt.Errorf("%w: %s has more than %d names", ErrSource, to, maxLinks)
	}
	dir, parent, err := t.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if old := parent.kids[base]; old != nil {
		if old.inode == first.inode {
			return nil
		}
		if !t.layered {
			return fmt.Errorf("%w: %s stands in it twice", ErrSource, name)
		}
		if err := t.remove(parent, dir, base); err != nil {
			return err
		}
	}
	if t.root != nil {
		if err := t.root.Link(path.Join(toDir, path.Base(to)), path.Join(dir, base)); err != nil {
			return fmt.Errorf("stage hard link %s: %w", name, err)
		}
	}
	return t.attach(parent, base, &node{inode: first.inode, layer: t.layer})
}

func (t *tree) attach(parent *node, base string, n *node) error {
	if t.entries >= maxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrSource, maxEntries)
	}
	t.entries++
	n.links++
	parent.kids[base] = n
	return nil
}

// remove takes a name and all below it away.
func (t *tree) remove(parent *node, dir, base string) error {
	n := parent.kids[base]
	name := path.Join(dir, base)
	for kid := range n.kids {
		if err := t.remove(n, name, kid); err != nil {
			return err
		}
	}
	if err := t.root.Remove(name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	delete(parent.kids, base)
	t.entries--
	n.links--
	return nil
}

// parent returns the folder that a path lies in, with its real path, and makes
// it if the source did not name it.
func (t *tree) parent(name string) (string, *node, error) {
	return t.walk(path.Dir(name), true)
}

// find is parent that makes nothing.
func (t *tree) find(name string) (string, *node) {
	dir, n, err := t.walk(path.Dir(name), false)
	if err != nil {
		return "", nil
	}
	return dir, n
}

// walk resolves a folder inside the tree. Symbolic links on the way count as
// folders only in images, whose layers are unpacked one over the other; they
// resolve in the root, never out of it.
func (t *tree) walk(dir string, create bool) (string, *node, error) {
	type step struct {
		name string
		n    *node
	}
	at := []step{{".", t.top}}
	rest := strings.Split(dir, "/")
	for hops := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		here := at[len(at)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		next := here.n.kids[name]
		full := path.Join(here.name, name)
		switch {
		case next == nil && !create:
			return "", nil, os.ErrNotExist
		case next == nil:
			if len(full) > maxPath {
				return "", nil, fmt.Errorf("%w: name %.80q", ErrSource, full)
			}
			if err := t.root.Mkdir(full, 0o700); err != nil {
				return "", nil, fmt.Errorf("stage %s: %w", full, err)
			}
			next = newFolder(t.layer)
			next.links = 0
			if err := t.attach(here.n, name, next); err != nil {
				return "", nil, err
			}
		case next.kind() == modeSymlink && t.layered:
			if hops++; hops > maxHops {
				return "", nil, fmt.Errorf("%w: too many symbolic links on the way to %s", ErrSource, dir)
			}
			if path.IsAbs(next.target) {
				at = at[:1]
			}
			rest = append(strings.Split(next.target, "/"), rest...)
			if len(rest) > maxPath {
				return "", nil, fmt.Errorf("%w: name %.80q", ErrSource, dir)
			}
			continue
		case next.kind() != modeDir:
			return "", nil, fmt.Errorf("%w: %s is to hold files and is no folder", ErrSource, full)
		}
		at = append(at, step{full, next})
	}
	last := at[len(at)-1]
	return last.name, last.n, nil
}

// checkPath refuses paths that lead out of the root, or that debugfs could not
// be told.
func checkPath(name string) error {
	switch {
	case name == "" || len(name) > maxPath || strings.ContainsAny(name, "\n\x00"):
		return fmt.Errorf("%w: name %.80q", ErrSource, name)
	case name != path.Clean(name) || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("%w: name %.80q leads out of the root", ErrSource, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return fmt.Errorf("%w: name %.80q has more than %d bytes", ErrSource, part, maxName)
		}
	}
	return nil
}

func (i *inode) check(name string) error {
	switch i.kind() {
	case modeFile, modeDir, modeSymlink, modeChar, modeBlock, modeFIFO:
	default:
		return fmt.Errorf("%w: %s has type 0%o", ErrSource, name, i.kind())
	}
	if i.kind() == modeSymlink && (i.target == "" || len(i.target) >= maxPath || strings.ContainsRune(i.target, 0)) {
		return fmt.Errorf("%w: symbolic link %s leads to %.80q", ErrSource, name, i.target)
	}
	total := 0
	for _, x := range i.xattrs {
		total += len(x.name) + len(x.value)
		if x.name == "" || len(x.name) > maxName || strings.ContainsAny(x.name, "\n\x00\" ") || total > maxXattrBytes {
			return fmt.Errorf("%w: extended attribute %.80q of %s", ErrSource, x.name, name)
		}
	}
	return nil
}

// each calls f for each name in order: a folder before what is in it.
func (t *tree) each(f func(name string, n *node) error) error {
	var walk func(name string, n *node) error
	walk = func(name string, n *node) error {
		if err := f(name, n); err != nil {
			return err
		}
		for _, kid := range slices.Sorted(maps.Keys(n.kids)) {
			if err := walk(path.Join(name, kid), n.kids[kid]); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(".", t.top)
}

// stage puts a file into the staged tree; zeros become holes.
func (t *tree) stage(name string, i *inode, r io.Reader) error {
	switch i.kind() {
	case modeDir:
		return t.root.Mkdir(name, 0o700)
	case modeSymlink:
		return t.root.Symlink(i.target, name)
	case modeFile:
		f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		i.stored, err = copyHoles(f, r, i.size)
		return errors.Join(err, f.Close())
	}
	// No link leads out: all folders on the way are staged ones.
	return mkfifo(filepath.Join(t.dir, name))
}

var zeros [chunkSize]byte

// copyHoles copies size bytes to a new file, blocks of zeros as holes, and
// returns the bytes of the other blocks.
func copyHoles(f *os.File, r io.Reader, size int64) (stored int64, err error) {
	const block = 4096
	buf := make([]byte, min(chunkSize, max(size, 1)))
	for at := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if at+int64(n) > size || errors.Is(err, io.EOF) && at < size || errors.Is(err, io.ErrUnexpectedEOF) && at+int64(n) < size {
			return stored, fmt.Errorf("%w: it does not have the %d bytes that were announced", ErrSource, size)
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return stored, err
		}
		for from := 0; from < n; {
			to, hole := from, isZero(buf[from:min(from+block, n)])
			for to < n && isZero(buf[to:min(to+block, n)]) == hole {
				to = min(to+block, n)
			}
			if !hole {
				if _, err := f.WriteAt(buf[from:to], at+int64(from)); err != nil {
					return stored, err
				}
				stored += int64(to-from+block-1) &^ (block - 1)
			}
			from = to
		}
		if at += int64(n); err != nil {
			return stored, f.Truncate(size)
		}
	}
}
