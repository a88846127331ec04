package containerd

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// descriptors counts the open files of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// once runs a guest, ends it before it has booted and deletes it.
func (e *engine) once(id string) error {
	for _, args := range [][]string{
		{"run", "--detach", "--null-io", "--snapshotter", "native", "--runtime", "io.containerd.secexec.v2", "secexec.test/wait:latest", id},
		{"task", "rm", "--force", id},
		{"containers", "rm", id},
	} {
		if out, err := e.command(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args, err, out)
		}
	}
	return nil
}

// Guests that come and go, in a row and at once, leave neither processes, mounts,
// sockets and records nor descriptors of the daemons.
func TestNothingLeaks(t *testing.T) {
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	e := newEngine(t, "wait")
	if err := e.once("web"); err != nil { // what is opened once and kept
		t.Fatal(err)
	}
	e.clean()
	containerd, hostagent := descriptors(t, e.containerd.Process.Pid), descriptors(t, e.hostagent.Process.Pid)
	settled := func(when string) {
		t.Helper()
		e.clean()
		// One for a connection that is just ending.
		e.until(fmt.Sprintf("%s the daemons have as many open files as before, %d and %d", when, containerd, hostagent), func() bool {
			return descriptors(t, e.containerd.Process.Pid) <= containerd+1 && descriptors(t, e.hostagent.Process.Pid) <= hostagent+1
		})
	}
	for range 50 {
		if err := e.once("web"); err != nil {
			t.Fatal(err)
		}
	}
	settled("after 50 in a row")
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := e.once(fmt.Sprintf("at-once-%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	settled("after 10 at once")
}
