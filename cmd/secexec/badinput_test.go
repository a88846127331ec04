package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Whatever the owner hands in and wherever the output is to go: a command ends
// soon, with a status that is not 0 and one sentence that names the file, and
// leaves nothing behind.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mke2fs", "qemu-img", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	good := fixtures(t)
	seen := make(map[string]bool)
	for _, c := range parseCommands() {
		kinds := make([][]string, len(c.inputs))
		for i, in := range c.inputs {
			if kinds[i] = commonSpoilers; !seen[in.option] || os.Getenv("SECEXEC_LONG") != "" {
				kinds[i] = slices.Sorted(maps.Keys(spoilers))
			}
			seen[in.option] = true
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.works(t, good)
			for i, in := range c.inputs {
				for _, kind := range kinds[i] {
					t.Run(in.path+" "+kind, func(t *testing.T) { c.spoil(t, good, in, kind) })
				}
			}
			for _, output := range c.outputs {
				for _, kind := range slices.Sorted(maps.Keys(obstacles)) {
					t.Run(output+" taken by "+kind, func(t *testing.T) { c.obstruct(t, good, output, kind) })
				}
				for _, place := range []string{"missing", "/proc"} {
					t.Run(output+" in "+place, func(t *testing.T) { c.misplace(t, good, output, place) })
				}
			}
			if len(c.outputs) > 0 {
				for _, blocks := range []string{"0", "1", "128"} {
					t.Run("disk full at "+blocks, func(t *testing.T) { c.fillDisk(t, good, blocks) })
				}
			}
			moments := []time.Duration{2, 30, 100, 300}
			if len(c.outputs) == 0 && !slices.ContainsFunc(c.inputs, func(in spoiled) bool { return in.change }) {
				moments = nil // it only reads
			}
			for i, after := range moments {
				t.Run("signal", func(t *testing.T) {
					c.interrupt(t, good, after*time.Millisecond, []os.Signal{syscall.SIGTERM, os.Interrupt}[i%2])
				})
			}
		})
	}
}

func (c *parsed) works(t *testing.T, good string) {
	dir := workFolder(t, good, c.inputs)
	if res := invoke(t, dir, c.argv, nil); res.status != 0 {
		t.Fatalf("it does not work to begin with: status %d\n%s", res.status, res.stderr)
	}
	for _, out := range c.outputs {
		if _, err := os.Lstat(filepath.Join(dir, out)); err != nil {
			t.Fatalf("it made no %s", out)
		}
	}
}

func (c *parsed) spoil(t *testing.T, good string, in spoiled, kind string) {
	dir := workFolder(t, good, c.inputs)
	spoilers[kind](t, filepath.Join(dir, in.path))
	before := listing(t, dir)
	if kind == "pipe" && waitedFor[c.name+": "+in.path] {
		c.end(t, dir, 300*time.Millisecond, syscall.SIGTERM)
		return
	}
	res := invoke(t, dir, c.argv, nil)
	if res.status == 0 && isTolerated(c.name, in.path, kind) {
		return
	}
	name := filepath.Base(in.path)
	if unnamed[c.name+": "+in.path+" "+kind] != "" {
		name = ""
	}
	res.checkRefusal(t, name)
	checkUnchanged(t, dir, before)
}

// What stands in an output's place stays as it is.
func (c *parsed) obstruct(t *testing.T, good, output, kind string) {
	dir := workFolder(t, good, c.inputs)
	obstacles[kind](t, filepath.Join(dir, output))
	before := listing(t, dir)
	invoke(t, dir, c.argv, nil).checkRefusal(t, output)
	checkUnchanged(t, dir, before)
}

// misplace asks for the output in a folder that is not there, or that takes no
// files, not even root's.
func (c *parsed) misplace(t *testing.T, good, output, place string) {
	dir := workFolder(t, good, c.inputs)
	argv := slices.Clone(c.argv)
	for i, word := range argv {
		if i < 2 {
			continue // the command itself
		}
		if before, ok := strings.CutSuffix(word, output); ok && (before == "" || before == "oci:") {
			argv[i] = before + place + "/" + output
		}
	}
	if slices.Equal(argv, c.argv) {
		t.Skip("the output is named in a file")
	}
	before := listing(t, dir)
	res := invoke(t, dir, argv, nil)
	if res.status == 0 && place == "missing" && output == "pushed" {
		return // a layout's folder is made with those above it
	}
	res.checkRefusal(t, output)
	checkUnchanged(t, dir, before)
}

// A disk that is full at any moment is an error, and leaves nothing.
func (c *parsed) fillDisk(t *testing.T, good, blocks string) {
	dir := workFolder(t, good, c.inputs)
	before := listing(t, dir)
	// Files that may not grow behave as on a full disk: EFBIG for ENOSPC.
	limit := "trap '' XFSZ; ulimit -f " + blocks + ` # of 512 bytes
exec "$0" "$@"`
	res := invoke(t, dir, append([]string{"sh", "-c", limit, "secexec"}, c.argv...), nil)
	if res.status == 0 && blocks == "128" && (c.name == "emulate init" || c.name == "image info map") {
		return // fits
	}
	res.checkRefusal(t, "")
	c.checkUnchanged(t, dir, before)
}

// interrupt ends a command by a signal. It may have ended before, or not have
// begun to listen: then it has begun nothing else.
func (c *parsed) interrupt(t *testing.T, good string, after time.Duration, sig os.Signal) {
	dir := workFolder(t, good, c.inputs)
	c.end(t, dir, after, sig)
}

func (c *parsed) end(t *testing.T, dir string, after time.Duration, sig os.Signal) {
	before := listing(t, dir)
	res := invoke(t, dir, c.argv, func(p *os.Process) {
		time.AfterFunc(after, func() { _ = p.Signal(sig) })
	})
	switch res.status {
	case 0:
		return
	case exitSignal:
		if !strings.HasSuffix(res.stderr, "secexec: interrupted\n") {
			t.Errorf("it says %q", res.stderr)
		}
	case -1: // by the signal itself
	default:
		t.Errorf("status %d\n%s", res.status, res.stderr)
	}
	c.checkUnchanged(t, dir, before)
}
