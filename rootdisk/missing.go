package rootdisk

import (
	"fmt"
	"path"
	"strings"
)

// addMissing makes a folder where there is none, and those on the way to it. If it
// may not, its lack is an error.
func (t *tree) addMissing(name string, may bool) error {
	at, full := t.top, ""
	for part := range strings.SplitSeq(name, "/") {
		full = path.Join(full, part)
		next := at.kids[part]
		switch {
		case next == nil && !may:
			return fmt.Errorf("%w: it has no folder /%s to mount on: make it", ErrSource, full)
		case next == nil:
			if t.root != nil {
				if err := t.root.Mkdir(full, 0o700); err != nil {
					return fmt.Errorf("stage %s: %w", full, err)
				}
			}
			next = newFolder(t.layer)
			next.links = 0
			if err := t.attach(at, part, next); err != nil {
				return err
			}
		case next.kind() != modeDir:
			return fmt.Errorf("%w: /%s is to be mounted on and is no folder", ErrSource, full)
		}
		at = next
	}
	return nil
}
