package handover

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckInit(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name string, mode os.FileMode) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!"), mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/lib/systemd/systemd", 0o755)
	write("plain", 0o644)
	link("usr/lib", "lib")
	link("/lib/systemd/systemd", "init")             // absolute: within the root
	link("../../../../../../../../bin/sh", "escape") // stays within the root, where no bin/sh is
	link(filepath.Join(root, "plain"), "hostpath")   // a path of the machine's, not of the root's
	link("loop", "loop")
	cases := map[string]error{
		"/usr/lib/systemd/systemd": nil, "/lib/systemd/systemd": nil, "/init": nil,
		"/plain": ErrBadInit, "/usr": ErrBadInit, "/escape": ErrNoInit, "/hostpath": ErrNoInit, "/loop": ErrNoInit, "/absent": ErrNoInit,
	}
	for init, want := range cases {
		if err := CheckInit(root, init); !errors.Is(err, want) {
			if errors.Is(err, unix.ENOSYS) {
				t.Skip("openat2 is not available here (qemu-user before 8.0)")
			}
			t.Errorf("%s: %v, wants %v", init, err, want)
		}
	}
}

func TestEmptyStaysInside(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "keep")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "a/file", "a/b/c/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{outside, filepath.Dir(outside)} {
		if err := os.Symlink(target, filepath.Join(dir, "link-"+filepath.Base(target))); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := Empty(fd); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("file behind a link is gone: %v", err)
	}
}
