package containerd

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// ctr run boots a sealed guest and ends with the status of its program; all that
// it said is in the log. Then nothing is left.
func TestRun(t *testing.T) {
	t.Parallel()
	e := newEngine(t, "fail")
	log := e.path("log")
	out, status := e.attempt("run", "--log-uri", "file://"+log, "--snapshotter", "native", "--runtime", "io.containerd.secexec.v2", "secexec.test/fail:latest", "web")
	text, _ := os.ReadFile(log)
	if status != 3 || !strings.Contains(string(text), "guest: begins") || !strings.Contains(string(text), "secexec: the workload ended with status 3") {
		t.Errorf("status %d\n%s\n%s", status, out, text)
	}
	e.ctr("containers", "rm", "web")
	e.clean()
}

// ctr run in the foreground shows the console as it comes, and passes SIGTERM on:
// the guest powers off.
func TestForeground(t *testing.T) {
	t.Parallel()
	e := newEngine(t, "wait")
	file, err := os.Create(e.path("console"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := e.command("run", "--rm", "--snapshotter", "native", "--runtime", "io.containerd.secexec.v2", "secexec.test/wait:latest", "web")
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.says(file.Name(), "guest: waits")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		text, _ := os.ReadFile(file.Name())
		t.Errorf("%v\n%s", cmd.ProcessState, text)
	}
	e.clean()
}
