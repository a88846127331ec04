package outfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestFileAppearsOnCommitOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	f, err := Create(path, 0o600, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := f.WriteString("whole"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("visible before Commit: %v", err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("after Commit: %v %v", info, err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left beside the output: %v", got)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "out"), 0o644, false)
	if err != nil {
		t.Fatal(err)
	}
	f.Abort()
	d, err := CreateDir(filepath.Join(dir, "folder"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("a", []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Abort()
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestTakenNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	late, err := Create(path, 0o644, false)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Abort()
	lateDir, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer lateDir.Abort()
	if err := os.WriteFile(path, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, 0o644, false); !errors.Is(err, ErrExists) {
		t.Errorf("Create over a file: %v", err)
	}
	if _, err := CreateDir(path, 0o755); !errors.Is(err, ErrExists) {
		t.Errorf("CreateDir over a file: %v", err)
	}
	if err := late.Commit(); !errors.Is(err, ErrExists) {
		t.Errorf("Commit over a file that came meanwhile: %v", err)
	}
	if err := lateDir.Commit(); !errors.Is(err, ErrExists) {
		t.Errorf("folder's Commit over a file that came meanwhile: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "theirs" {
		t.Errorf("their file now holds %q", got)
	}
	f, err := Create(path, 0o644, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Errorf("Commit with replace: %v", err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left beside the output: %v", got)
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "folder")
	d, err := CreateDir(path, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("key", []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info, err)
	}
	if got, err := os.ReadFile(filepath.Join(path, "key")); err != nil || string(got) != "k" {
		t.Errorf("file: %q %v", got, err)
	}
}
