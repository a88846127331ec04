package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// changing are commands with an input that is read for a while, here 64 MiB, and
// what their refusals call it.
var changing = []struct{ line, input, named string }{
	{"image create -i kernel -r big -k host.crt --no-verify -o image", "big", "initrd"},
	{"image create -i kernel -r big -k host.crt --no-verify --seed seed -o image", "big", "initrd"},
	{"disk create --root files --root-size 256M --key-file disk.key --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o disk.img", "files/big", "big"},
}

// A file that changes while it is read is either refused, or taken as it was
// when it was opened; nothing half read comes out.
func TestChangingInput(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	good := t.TempDir()
	if res := invoke(t, good, []string{"emulate", "init", "h"}, nil); res.status != 0 {
		t.Fatal(res.stderr)
	}
	for i, c := range changing {
		for _, to := range []int64{size / 2, 0, 2 * size} {
			t.Run(fmt.Sprintf("%d %s %d", i, c.input, to), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				big := filepath.Join(dir, c.input)
				must(t, os.MkdirAll(filepath.Join(dir, "files"), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, "kernel"), fakeKernelBytes(), 0o644))
				must(t, os.WriteFile(filepath.Join(dir, "seed"), make([]byte, 64), 0o600))
				must(t, os.WriteFile(filepath.Join(dir, "disk.key"), make([]byte, 64), 0o600))
				must(t, os.Link(filepath.Join(good, "h/host.crt"), filepath.Join(dir, "host.crt")))
				must(t, os.WriteFile(big, nil, 0o644))
				must(t, os.Truncate(big, size))
				var changed bool
				done := make(chan struct{})
				res := invoke(t, dir, strings.Fields(c.line), func(p *os.Process) {
					go func() {
						defer close(done)
						changed = changeWhenOpen(p.Pid, big, to)
					}()
				})
				<-done
				if !changed {
					t.Skip("it was over before the file could be seen open")
				}
				out := filepath.Join(dir, strings.Fields(c.line)[len(strings.Fields(c.line))-1])
				info, err := os.Stat(out)
				switch {
				case res.status != 0:
					res.checkRefusal(t, c.named)
					if err == nil {
						t.Errorf("it failed and left %s", out)
					}
				case err != nil:
					t.Errorf("it says that it made %s: %v", out, err)
				case filepath.Base(out) == "image" && (info.Size() < size || info.Size() > size+1<<20):
					t.Errorf("the image has %d bytes: neither refused nor what was there", info.Size())
				}
			})
		}
	}
}

// changeWhenOpen waits until a process has a file open and gives it a new size.
func changeWhenOpen(pid int, path string, size int64) bool {
	for dir := fmt.Sprintf("/proc/%d/fd", pid); ; time.Sleep(200 * time.Microsecond) {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) == 0 { // it ended
			return false
		}
		for _, fd := range list {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == path {
				return os.Truncate(path, size) == nil
			}
		}
	}
}
