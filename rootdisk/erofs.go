package rootdisk

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/rootdisk/erofs"
)

// makeEROFS makes a file system of a tree in a file without a name, and returns
// it with its size. It has no free room; with a size of its own zeros follow it.
// Holes of files take room.
func makeEROFS(ctx context.Context, work string, t *tree, id [16]byte, o *Options) (_ *os.File, _ int64, err error) {
	files := t.root
	if files == nil {
		if files, err = os.OpenRoot(t.dir); err != nil {
			return nil, 0, fmt.Errorf("make file system: %w", err)
		}
		defer files.Close()
	}
	f, err := nameless(work)
	if err != nil {
		return nil, 0, fmt.Errorf("make file system: %w", err)
	}
	size, err := erofs.Write(ctx, f, t.erofs(files), seedUUID(id), o.Label)
	switch {
	case err != nil:
	case o.Size != 0 && o.Size < size:
		err = fmt.Errorf("%w: %d MiB hold no %d MiB of files: ask for a larger size", ErrOptions, o.Size/mebi, (size+mebi-1)/mebi)
	case o.Size != 0:
		size = o.Size
		err = f.Truncate(size)
	}
	if err == nil && t.root == nil {
		err = t.unchanged()
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("make file system: %w", err)
	}
	return f, size, nil
}

// erofs returns the tree as package erofs takes it.
func (t *tree) erofs(files *os.Root) *erofs.Node {
	nodes := make(map[*inode]*erofs.Node) // hard links share one
	var of func(name string, n *node) *erofs.Node
	of = func(name string, n *node) *erofs.Node {
		if e := nodes[n.inode]; e != nil {
			return e
		}
		e := &erofs.Node{Mode: n.mode, UID: n.uid, GID: n.gid, Major: n.major, Minor: n.minor, MTime: n.mtime, Target: n.target, Size: n.size}
		for _, x := range n.xattrs {
			e.Xattrs = append(e.Xattrs, erofs.Xattr{Name: x.name, Value: x.value})
		}
		e.Open = func() (io.ReadCloser, error) {
			return files.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		}
		if n.kind() == modeDir {
			e.Kids = make(map[string]*erofs.Node, len(n.kids))
			for base, kid := range n.kids {
				e.Kids[base] = of(path.Join(name, base), kid)
			}
		}
		nodes[n.inode] = e
		return e
	}
	return of(".", t.top)
}
