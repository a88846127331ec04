package e2fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A machine without e2fsprogs: the error names the package.
func TestMissing(t *testing.T) {
	before := dirs
	dirs = nil
	defer func() { dirs = before }()
	t.Setenv("PATH", t.TempDir())
	_, err := Call{Program: "mke2fs"}.Run(t.Context())
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "mke2fs: install Debian package e2fsprogs") {
		t.Errorf("got %v", err)
	}
}

// program puts a shell script in the PATH.
func program(t *testing.T, text string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "debugfs"), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/bin:/usr/bin")
}

func TestRun(t *testing.T) {
	program(t, `echo out; echo err >&2; cat; cat "$1"; echo "$MORE"`)
	image, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if _, err := image.WriteString("image\n"); err != nil {
		t.Fatal(err)
	}
	c := Call{Program: "debugfs", Args: []string{Image}, Stdin: []byte("in\n"), Image: image, Env: []string{"MORE=more"}}
	if out, err := c.Run(t.Context()); err != nil || out != "out\nerr\nin\nimage\nmore\n" {
		t.Errorf("%q %v", out, err)
	}
	c.Quiet = true
	if out, err := c.Run(t.Context()); err != nil || out != "err\n" {
		t.Errorf("quiet: %q %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	program(t, `echo why >&2; exit 3`)
	if out, err := c.Run(t.Context()); !errors.Is(err, ErrFailed) || out != "why\n" || !strings.HasSuffix(err.Error(), "debugfs: exit status 3: why") {
		t.Errorf("%q %v", out, err)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	if got := Quote(`a "b" c`); got != `"a ""b"" c"` {
		t.Error(got)
	}
}
