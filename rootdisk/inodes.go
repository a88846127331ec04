package rootdisk

import (
	"fmt"
	"os"
	"path"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/rootdisk/ext4"
)

// lostFound is the folder that mke2fs makes for e2fsck, and copies nothing into.
const lostFound = "lost+found"

// setInodes gives all files of an image what the tree says of them. What is in
// the one and not in the other is an error.
func (t *tree) setInodes(img *os.File, size int64) error {
	fs, err := ext4.Open(img, size)
	if err != nil {
		return err
	}
	if n := t.top.kids[lostFound]; n != nil && (n.kind() != modeDir || len(n.kids) > 0) {
		return fmt.Errorf("%w: %s is no empty folder: move what is in it", ErrSource, lostFound)
	}
	top, err := fs.Inode(ext4.RootInode)
	if err != nil {
		return err
	}
	return t.setFolder(fs, img, ".", t.top, top)
}

func (t *tree) setFolder(fs *ext4.FS, img *os.File, name string, n *node, dir *ext4.Inode) error {
	if err := n.set(fs, img, dir); err != nil {
		return err
	}
	entries, err := fs.Folder(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, ok := entries[lostFound]; ok && name == "." && n.kids[lostFound] == nil {
		delete(entries, lostFound)
	}
	if len(entries) != len(n.kids) {
		return fmt.Errorf("%w: %s has %d files, %d were copied", e2fs.ErrFailed, name, len(n.kids), len(entries))
	}
	for base, e := range entries {
		full := path.Join(name, base)
		kid := n.kids[base]
		if kid == nil {
			return fmt.Errorf("%w: %s was copied and is not known", e2fs.ErrFailed, full)
		}
		i, err := fs.Inode(e.Inode)
		if err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		kind := uint32(i.Mode()) & modeType
		switch {
		case kid.device() && kind == modeFIFO:
			i.SetDevice(kid.major, kid.minor)
			if err := fs.SetType(img, dir, e, direntType(kid.inode)); err != nil {
				return fmt.Errorf("%s: %w", full, err)
			}
		case kid.device() && kind == kid.kind() && e.Type != direntType(kid.inode):
			// Another name of a device that stood as a pipe.
			if err := fs.SetType(img, dir, e, direntType(kid.inode)); err != nil {
				return fmt.Errorf("%s: %w", full, err)
			}
		case kind != kid.kind() || kind == modeFile && i.Size() != kid.size:
			return fmt.Errorf("%w: %s was not copied as it is", e2fs.ErrFailed, full)
		}
		if kind == modeDir {
			err = t.setFolder(fs, img, full, kid, i)
		} else {
			err = kid.set(fs, img, i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func direntType(i *inode) byte {
	if i.kind() == modeChar {
		return ext4.TypeChar
	}
	return ext4.TypeBlock
}

// set writes an inode. Its times are all the one that the source gives, so that
// they are the same whoever makes the disk and when.
func (n *node) set(fs *ext4.FS, img *os.File, i *ext4.Inode) error {
	i.SetMode(uint16(n.mode))
	i.SetOwner(n.uid, n.gid)
	i.SetTimes(n.mtime)
	return fs.WriteInode(img, i)
}
