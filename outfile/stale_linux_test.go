package outfile

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// What a killed maker leaves is removed by the next; what a living one works
// on, or what only looks alike, is not.
func TestStaleSiblings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	alive, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Abort()
	dead, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Mkdir("tree", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := dead.WriteFile("tree/plain", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dead.Join("tree"), 0o500); err != nil {
		t.Fatal(err)
	}
	deadFile, err := Create(path, 0o600, false)
	if err != nil {
		t.Fatal(err)
	}
	// Killed: the kernel closes what the process held.
	dead.lock.Close()
	deadFile.Close()
	others := []string{".out.part-", ".out.part-x1", ".other.part-1"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(others[0], filepath.Join(dir, ".out.part-7")); err != nil {
		t.Fatal(err)
	}
	next, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Abort()
	want := append([]string{filepath.Base(alive.Path), filepath.Base(next.Path), ".out.part-7"}, others...)
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("left %v, wants %v", got, want)
	}
}

// A child that a maker started, such as mke2fs, must not hold the lock on.
func TestChildrenDoNotInheritTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	d, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Skip("no sleep can be started: " + err.Error())
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	d.lock.Close()
	next, err := CreateDir(path, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Abort()
	if _, err := os.Stat(d.Path); !os.IsNotExist(err) {
		t.Errorf("the dead maker's folder is still there: %v", err)
	}
}

func TestReplaceDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if _, err := ReplaceDir(path, 0o755); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("replace nothing: %v", err)
	}
	for _, text := range []string{"old", "new"} {
		create := CreateDir
		if text == "new" {
			create = ReplaceDir
		}
		d, err := create(path, 0o700)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteFile("f", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "new" {
			if err := d.Link("g", filepath.Join(path, "f")); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"f": "new", "g": "old"} {
		if got, err := os.ReadFile(filepath.Join(path, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, wants %q", name, got, err, want)
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left beside the output: %v", got)
	}
}

func TestResumeDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	first, err := ResumeDir(path, 0o755, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ResumeDir(path, 0o755, false); !errors.Is(err, ErrBusy) {
		t.Errorf("second at work: %v", err)
	}
	if err := first.WriteFile("f", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	first.Keep()
	second, err := ResumeDir(path, 0o755, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(second.Join("f")); err != nil || string(got) != "half" {
		t.Errorf("kept: %q %v", got, err)
	}
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	second.Keep()
	if got := names(t, dir); !slices.Equal(got, []string{"out"}) {
		t.Errorf("left %v", got)
	}
	if _, err := ResumeDir(path, 0o755, false); !errors.Is(err, ErrExists) {
		t.Errorf("over a folder: %v", err)
	}
	third, err := ResumeDir(path, 0o755, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, path); len(got) != 0 {
		t.Errorf("replaced folder holds %v", got)
	}
}
