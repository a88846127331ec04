package booted

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// hostagent is killed while a guest runs: the guest does not notice, and the
// next hostagent manages it.
func TestKilledWhileGuestRuns(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	before := n.ready(bundle, "g")
	n.kill()
	if err := syscall.Kill(int(before.Pid), 0); err != nil {
		t.Fatalf("the guest went with hostagent: %v", err)
	}
	n.start()
	after, err := n.c.Get(t.Context(), "g")
	if err != nil || after.State != "ready" || after.Pid != before.Pid {
		t.Fatalf("after the restart: %v %v", after, err)
	}
	var out string
	deadline := time.Now().Add(10 * time.Second) // the port reconnects on its own
	for {
		if out, err = n.secexec("verify", "g", "--identity", bundle+"-secrets/identity.pub"); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatalf("verify after the restart: %v\n%s", err, out)
	}
	if _, err := n.c.Stop(t.Context(), "g", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("g"); g.State != "stopped" {
		t.Errorf("after stop: %v", g)
	}
}

// hostagent is killed after the ultravisor's decision: the guest boots on with
// nobody at its readiness port, and is found ready.
func TestKilledWhileGuestBoots(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	if err := n.launch(bundle, "g"); err != nil {
		t.Fatal(err)
	}
	n.until("g", "running", func(g *hostagentv1.Guest) bool { return g.State == "running" })
	n.kill()
	time.Sleep(8 * time.Second) // longer than the boot takes
	n.start()
	if g := n.settled("g"); g.State != "ready" {
		t.Errorf("guest is %v\n%s", g, n.console("g"))
	}
	n.says("g", "testinit: waits")
}

// hostagent is killed in the middle of a start: the guest is failed, in words,
// and no QEMU is left; the next start works.
func TestKilledWhileStarting(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	for i, pause := range []time.Duration{0, 5, 15, 30, 60, 100, 150} {
		name := fmt.Sprintf("g%d", i)
		if err := n.launch(bundle, name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause * time.Millisecond)
		n.kill()
		n.start()
		g, err := n.c.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		switch g.State {
		case "failed":
			if g.Failure.Code != "H213" {
				t.Errorf("killed after %d ms: %v", pause, g)
			}
			for _, pid := range n.processes() {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if strings.Contains(string(cmdline), g.Uuid) {
					t.Errorf("killed after %d ms: QEMU %d is left", pause, pid)
				}
			}
		case "running", "ready":
			if _, err := n.c.Kill(t.Context(), name); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("killed after %d ms: %v", pause, g)
		}
	}
	if _, err := n.c.Start(t.Context(), "g0", ""); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("g0"); g.State != "ready" {
		t.Errorf("started again: %v", g)
	}
}

// A guest that is not ready in time is ended, and the error shows its console.
func TestReadyDeadline(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t, "--ready-timeout", "1500ms")
	if err := n.launch(bundle, "slow"); err != nil {
		t.Fatal(err)
	}
	g := n.settled("slow")
	if g.State != "failed" || g.Failure.Code != "H210" || !strings.Contains(g.Failure.Message, "console") || g.Pid != 0 {
		t.Errorf("guest is %v", g)
	}
}

// QEMUs that can't be used: each failure has its code and the log is named.
func TestUselessQEMU(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	script := func(name string) string {
		path, err := filepath.Abs("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct{ qemu, code, words string }{
		"missing":      {filepath.Join(t.TempDir(), "absent"), "H206", "qemu-system-misc"},
		"too old":      {script("qemu-old"), "H206", "too old"},
		"dies at once": {script("qemu-dies"), "H208", "no such machine"},
	} {
		n := newNode(t, "--qemu", c.qemu)
		if err := n.launch(bundle, "g"); err != nil {
			t.Fatal(err)
		}
		g := n.settled("g")
		if g.State != "failed" || g.Failure.Code != c.code || !strings.Contains(g.Failure.Message, c.words) {
			t.Errorf("%s: %v", name, g)
		}
	}
}

// A killed guest, a stopped one that is starting, a socket in use.
func TestOperations(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	if err := n.launch(bundle, "g"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.c.Stop(t.Context(), "g", time.Second); err != nil {
		t.Errorf("stop while starting: %v", err)
	}
	if g := n.settled("g"); g.State != "stopped" {
		t.Errorf("stopped while starting: %v", g)
	}
	if _, err := n.c.Stop(t.Context(), "g", time.Second); code(err) != "H205" {
		t.Errorf("stop of a stopped guest: %v", err)
	}
	if err := n.launch(bundle, "g"); code(err) != "H203" {
		t.Errorf("second guest of the name: %v", err)
	}
	if err := n.launch("relative", "x"); code(err) != "H216" {
		t.Errorf("relative bundle: %v", err)
	}
	if _, err := n.c.Start(t.Context(), "absent", ""); code(err) != "H204" {
		t.Errorf("start of no guest: %v", err)
	}
	if _, err := n.c.Challenge(t.Context(), "g", make([]byte, 31)); code(err) != "H216" {
		t.Errorf("short nonce: %v", err)
	}
	second := newSecond(t, n)
	if !strings.Contains(second, "in use by another hostagent") {
		t.Errorf("second hostagent: %s", second)
	}
}

// newSecond starts a hostagent on a node's folders, which must fail, and returns
// its words.
func newSecond(t *testing.T, n *node) string {
	t.Helper()
	out, err := exec.Command(n.cmd.Path, n.cmd.Args[1:]...).CombinedOutput()
	if err == nil {
		t.Error("a second hostagent runs on the same folders")
	}
	return string(out)
}

// ^C while a guest boots: the guest is ended and gone.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	cmd := exec.Command(filepath.Join(lab.dir, "secexec"), "run", bundle, "--name", "g", "--socket", n.path("sock"))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 || !strings.HasSuffix(out.String(), "secexec: interrupted\n") {
		t.Errorf("run: %v\n%s", err, out.String())
	}
	if guests, err := n.c.List(t.Context()); err != nil || len(guests) != 0 {
		t.Errorf("left: %v %v", guests, err)
	}
	if left := n.processes(); len(left) != 1 { // hostagent
		t.Errorf("processes %v", left)
	}
}
