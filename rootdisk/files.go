package rootdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// maxRead bounds a file that is given back.
const maxRead = 1 << 20

// files reads those of some files, given by absolute paths, that are there.
func (t *tree) files(names []string) (map[string][]byte, error) {
	found := make(map[string][]byte)
	for _, name := range names {
		b, err := t.file(path.Clean("/" + name)[1:])
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		found[name] = b
	}
	return found, nil
}

// file reads a regular file. Symbolic links lead where they do in the root.
func (t *tree) file(name string) ([]byte, error) {
	for range maxHops {
		dir, parent := t.find(name)
		if parent == nil || parent.kids[path.Base(name)] == nil {
			return nil, os.ErrNotExist
		}
		n := parent.kids[path.Base(name)]
		switch n.kind() {
		case modeFile:
			f, err := os.Open(filepath.Join(t.dir, dir, path.Base(name)))
			if err != nil {
				return nil, err
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
			if err == nil && len(b) > maxRead {
				err = fmt.Errorf("%w: it has more than %d bytes", ErrSource, maxRead)
			}
			return b, err
		case modeSymlink:
			if name = n.target; !path.IsAbs(name) {
				name = path.Join("/", dir, name)
			}
			name = path.Clean(name)[1:]
		default:
			return nil, fmt.Errorf("%w: it is no file", ErrSource)
		}
	}
	return nil, fmt.Errorf("%w: too many symbolic links", ErrSource)
}
