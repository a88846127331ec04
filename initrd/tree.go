package initrd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"

	"github.com/secexec/secexec/compressed"
)

// Tree is the module tree of one kernel, what is below lib/modules/RELEASE.
type Tree struct {
	Release string // as `uname -r` prints it
	fsys    fs.FS
	index   *index
}

// OpenTree reads the index files at the top of a module tree, fsys. depmod
// makes modules.dep when a kernel is installed; without one, as in packages,
// the tree's own files are the list, and what modules need is read from them.
func OpenTree(fsys fs.FS, release string) (*Tree, error) {
	if fsys == nil {
		return nil, fmt.Errorf("open kernel modules: %w: kernel %s comes without modules", ErrTree, release)
	}
	x := newIndex()
	for _, file := range []struct {
		name  string
		parse func(io.Reader) error
	}{
		{"modules.dep", x.parseDep},
		{"modules.softdep", x.parseSoftdep},
		{"modules.alias", x.parseAlias},
		{"modules.builtin", x.parseBuiltin},
	} {
		f, err := openRegular(fsys, file.name)
		if errors.Is(err, fs.ErrNotExist) {
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
	if x.needs == nil {
		if err := x.walk(fsys); err != nil {
			return nil, fmt.Errorf("open kernel modules: %w: %w", ErrTree, err)
		}
		if len(x.path) == 0 && len(x.builtin) == 0 {
			return nil, fmt.Errorf("open kernel modules: %w: kernel %s has neither modules.dep, modules.builtin nor a module", ErrTree, release)
		}
	}
	return &Tree{Release: release, fsys: fsys, index: x}, nil
}

// openRegular opens a file, not a pipe: that would wait for its writer.
func openRegular(fsys fs.FS, name string) (fs.File, error) {
	info, err := fs.Lstat(fsys, name) // fs.Stat of what fs.Sub made opens it
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		info, err = fs.Stat(fsys, name)
	}
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, err
	}
	return fsys.Open(name)
}

// walk lists the tree's modules by their files. Of two of a name the one
// outside kernel/ wins, as depmod's default "search updates built-in" has it
// for updates/; other doubles are refused.
func (x *index) walk(fsys fs.FS) error {
	n := 0
	var late []string
	err := fs.WalkDir(fsys, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > maxLines {
			return fmt.Errorf("more than %d files", maxLines)
		}
		if _, _, ok := moduleName(file); !ok || !d.Type().IsRegular() {
			return nil
		}
		if strings.HasPrefix(file, "kernel/") {
			late = append(late, file)
			return nil
		}
		_, err = x.add(file)
		return err
	})
	if err != nil {
		return err
	}
	own := maps.Clone(x.path)
	for _, file := range late {
		stem, _, _ := moduleName(file)
		if own[normal(stem)] != "" {
			continue
		}
		if _, err := x.add(file); err != nil {
			return err
		}
	}
	return nil
}

// Len returns how many modules the tree has as files.
func (t *Tree) Len() int { return len(t.index.path) }

// Load returns a module's content, uncompressed.
func (t *Tree) Load(m Module) ([]byte, error) {
	content, err := t.read(m.Path)
	if err != nil {
		return nil, fmt.Errorf("load module %s: %w", m.File, err)
	}
	return content, nil
}

func (t *Tree) read(file string) ([]byte, error) {
	f, err := openRegular(t.fsys, file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	packed, err := compressed.ReadAtMost(f, MaxModule)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	_, suffix, _ := moduleName(file)
	format, _ := compressed.BySuffix(suffix)
	content := packed
	if format != compressed.None {
		if content, err = compressed.Decode(packed, format, MaxModule); err != nil {
			return nil, fmt.Errorf("decompress %s: %w", file, err)
		}
	}
	if !isELF(content, elfRel) {
		return nil, fmt.Errorf("%s: %w", file, ErrNotS390x)
	}
	return content, nil
}
