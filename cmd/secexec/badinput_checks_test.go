package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Bounds of any refusal.
const (
	refusalTime   = 10 * time.Second
	refusalMemory = 200 << 10 // KiB
)

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
	memory         int64 // the most it had, in KiB
	took           time.Duration
}

// invoke runs secexec, or a shell that argv begins with, in a folder. Begun,
// which may be nil, is told of the process.
func invoke(t *testing.T, dir string, argv []string, begun func(*os.Process)) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), refusalTime)
	defer cancel()
	name := "secexec"
	if argv[0] == "sh" {
		name, argv = "sh", argv[1:]
	}
	cmd := exec.CommandContext(ctx, name, argv...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "SECEXEC_TEST_PEAK=/proc/self/fd/3")
	peak, tell, err := os.Pipe()
	must(t, err)
	defer peak.Close()
	cmd.ExtraFiles = []*os.File{tell}
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	must(t, cmd.Start())
	tell.Close()
	if begun != nil {
		begun(cmd.Process)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("secexec %s: %v, %v\n%s", strings.Join(argv, " "), err, ctx.Err(), stderr.String())
	}
	took := time.Since(start)
	must(t, peak.SetReadDeadline(time.Now().Add(time.Second))) // of a killed process a child may hold the pipe
	told, _ := io.ReadAll(peak)
	memory, _ := strconv.ParseInt(string(told), 10, 64) // 0 of one that was killed
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), memory, took}
}

// checkRefusal wants a refusal as users should see it.
func (r result) checkRefusal(t *testing.T, names string) {
	t.Helper()
	var sentences []string
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "warning: ") && !strings.HasPrefix(line, "secexec: warning: ") {
			sentences = append(sentences, strings.TrimSpace(line))
		}
	}
	switch {
	case r.status != exitFailure && r.status != exitUsage:
		t.Errorf("status %d\n%.1000s%s", r.status, r.stdout, r.stderr)
	case strings.Contains(r.stderr, "goroutine "):
		t.Errorf("it panics:\n%s", r.stderr)
	case len(sentences) != 1 || !strings.HasPrefix(sentences[0], "secexec: "):
		t.Errorf("wants one sentence, got:\n%s", r.stderr)
	case !strings.Contains(sentences[0], names):
		t.Errorf("it does not name %s: %s", names, sentences[0])
	case len(sentences[0]) > 500:
		t.Errorf("it says %d characters: %s", len(sentences[0]), sentences[0])
	}
	if r.took > refusalTime {
		t.Errorf("it took %v", r.took)
	}
	if r.memory == 0 {
		t.Error("it does not tell how much memory it took")
	}
	if r.memory > refusalMemory && runtime.GOARCH != "s390x" { // there an emulator's memory counts, too
		t.Errorf("it took %d MiB of memory", r.memory>>10)
	}
}

// checkUnchanged wants a folder to be as it was, but for what the command keeps
// between tries.
func (c *parsed) checkUnchanged(t *testing.T, dir string, before []string) {
	t.Helper()
	kept := slices.DeleteFunc(listing(t, dir), func(line string) bool { return !c.keeps(strings.Fields(line)[0]) })
	before = slices.DeleteFunc(before, func(line string) bool { return c.keeps(strings.Fields(line)[0]) })
	checkUnchanged(t, dir, append(before, kept...))
}

// checkUnchanged wants a folder to be as it was.
func checkUnchanged(t *testing.T, dir string, before []string) {
	t.Helper()
	after := listing(t, dir)
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("it left behind or changed %s", line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("it took away or changed %s", line)
		}
	}
}

// listing is what a folder holds: names, kinds and times.
func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := name + " " + info.Mode().String()
		if info.Mode().IsRegular() {
			line += " " + info.ModTime().String()
		}
		names = append(names, line)
		return nil
	}))
	return names
}
