// Package roots opens files by paths that clients name: beneath allowed folders,
// without following links out of them, and where a tenant asks only what that
// tenant may read itself.
//
// A path is walked by descriptors, one name after the other. Each one is opened
// without a look at what it leads to (O_PATH, O_NOFOLLOW), judged by its
// descriptor, and used by it: what is judged is what is used, whatever is renamed
// or linked anew meanwhile. That needs no openat2, which emulators and old
// kernels lack, and can judge each folder on the way, which openat2 can't.
package roots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrRefused is wrapped by errors about paths that may not be named; other
// errors, such as os.ErrNotExist, are the system's.
var ErrRefused = errors.New("path is not allowed")

// Bounds of a path.
const (
	maxPath  = 4096 // bytes, as in the kernel
	maxLinks = 40   // as in the kernel
	maxDepth = 64   // folders, each of them a descriptor
)

// Reader is who must be able to read a file himself, by its owner, group and
// mode and those of each folder above it, from the allowed one on. A file or
// folder with an access control list is refused unless the reader owns it.
type Reader struct {
	UID  uint32
	GIDs []uint32
}

// Roots are the allowed folders, absolute paths. None of them: nothing is
// allowed; "/" allows everything.
type Roots []string

// find returns the longest root that holds a path, and the names from there.
func (r Roots) find(path string) (root string, names []string, err error) {
	if len(path) > maxPath || !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return "", nil, fmt.Errorf("%w: %.200q is not an absolute path of up to %d bytes", ErrRefused, path, maxPath)
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", nil, fmt.Errorf("%w: %.200q has a .. in it", ErrRefused, path)
	}
	path = filepath.Clean(path)
	for _, candidate := range r {
		if candidate = filepath.Clean(candidate); len(candidate) > len(root) && within(candidate, path) {
			root = candidate
		}
	}
	if root == "" {
		return "", nil, fmt.Errorf("%w: %.200q is not beneath %s", ErrRefused, path, r)
	}
	return root, split(path[len(root):]), nil
}

// within tells whether a clean path is a root or beneath it.
func within(root, path string) bool {
	return path == root || root == "/" || strings.HasPrefix(path, root+"/")
}

func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}

// String lists the roots for people.
func (r Roots) String() string {
	if len(r) == 0 {
		return "any allowed folder, as none is configured"
	}
	return strings.Join(r, ", ")
}

// Folder is an open folder whose files are opened by plain names, for the same
// reader. Close it.
type Folder struct {
	dir  *os.File
	path string
	as   *Reader
}

// Close lets go of the folder.
func (f *Folder) Close() error { return f.dir.Close() }

// Name is the path by which the folder was opened.
func (f *Folder) Name() string { return f.path }
