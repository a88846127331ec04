package initrd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// Tree is the module tree of one kernel, what is below lib/modules/RELEASE.
type Tree struct {
	Release string // as `uname -r` prints it
	fsys    fs.FS
	index   *index
}

// FindTree opens the module tree in a folder: the folder itself, or the only
// kernel in its lib/modules or directly in it.
func FindTree(dir string) (*Tree, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open kernel modules: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open kernel modules: %s is no folder", dir)
	}
	root := os.DirFS(dir)
	for _, pattern := range []string{"modules.dep", "lib/modules/*/modules.dep", "usr/lib/modules/*/modules.dep", "*/modules.dep"} {
		found, err := fs.Glob(root, pattern)
		if err != nil {
			return nil, fmt.Errorf("open kernel modules: %w", err)
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			sub, err := fs.Sub(root, path.Dir(found[0]))
			if err != nil {
				return nil, fmt.Errorf("open kernel modules: %w", err)
			}
			release := path.Base(path.Dir(found[0]))
			if release == "." {
				release = path.Base(dir)
			}
			return OpenTree(sub, release)
		}
		return nil, fmt.Errorf("open kernel modules: %w: %s holds %d kernels; name one's folder, such as %s", ErrTree, dir, len(found), path.Dir(found[0]))
	}
	return nil, fmt.Errorf("open kernel modules: %w: no modules.dep in %s or its lib/modules; depmod makes it", ErrTree, dir)
}

// OpenTree reads the index files at the top of a module tree. Only modules.dep
// must be there.
func OpenTree(fsys fs.FS, release string) (*Tree, error) {
	x := newIndex()
	for _, file := range []struct {
		name  string
		parse func(io.Reader) error
		must  bool
	}{
		{"modules.dep", x.parseDep, true},
		{"modules.softdep", x.parseSoftdep, false},
		{"modules.alias", x.parseAlias, false},
		{"modules.builtin", x.parseBuiltin, false},
	} {
		f, err := fsys.Open(file.name)
		if errors.Is(err, fs.ErrNotExist) && !file.must {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open kernel modules: %w", err)
		}
		err = file.parse(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w: %w", file.name, ErrTree, err)
		}
	}
	return &Tree{Release: release, fsys: fsys, index: x}, nil
}

// Load returns a module's content, uncompressed.
func (t *Tree) Load(m Module) ([]byte, error) {
	f, err := t.fsys.Open(m.Path)
	if err != nil {
		return nil, fmt.Errorf("load module %s: %w", m.File, err)
	}
	defer f.Close()
	compressed, err := readAtMost(f, MaxModule)
	if err != nil {
		return nil, fmt.Errorf("load module %s: read %s: %w", m.File, m.Path, err)
	}
	_, suffix, _ := moduleName(m.Path)
	content, err := decompress(compressed, suffix)
	if err != nil {
		return nil, fmt.Errorf("load module %s: decompress %s: %w", m.File, m.Path, err)
	}
	if !isELF(content, elfRel) {
		return nil, fmt.Errorf("load module %s: %s: %w", m.File, m.Path, ErrNotS390x)
	}
	return content, nil
}
