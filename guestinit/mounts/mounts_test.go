package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Where a data volume goes: into folders that are there or can be made, never
// through a link.
func TestFolder(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "srv/data"), 0o755),
		os.WriteFile(filepath.Join(root, "file"), nil, 0o600),
		os.Symlink(outside, filepath.Join(root, "out")),
		os.Symlink("srv", filepath.Join(root, "in")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]error{
		"/srv": nil, "/srv/data": nil, "/srv/new": nil, "/a/b/c": nil,
		"/file": unix.ENOTDIR, "/file/x": unix.ENOTDIR, "/out": unix.ENOTDIR, "/out/x": unix.ENOTDIR, "/in/data": unix.ENOTDIR,
	} {
		dir, err := folder(root, path)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, wants %v", path, err, want)
		}
		if err != nil {
			continue
		}
		got, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(dir)))
		if err != nil || got != filepath.Join(root, path) {
			t.Errorf("%s: is %s %v", path, got, err)
		}
		unix.Close(dir)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside of the root: %v %v", left, err)
	}
	if err := Data("/nonexistent", root, "/file", "ext4", false); !errors.Is(err, ErrMountPoint) {
		t.Errorf("mount on a file: %v", err)
	}
}
