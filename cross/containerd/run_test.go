package containerd

import (
	"os"
	"strconv"
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
	pid := int(e.guest("web").Pid)
	if taskPid, status := e.task("web"); taskPid != pid || status != "RUNNING" {
		t.Errorf("task is %s, process %d, the guest's is %d", status, taskPid, pid)
	}
	if out := e.ctr("task", "ps", "web"); !strings.Contains(out, strconv.Itoa(pid)) {
		t.Errorf("processes: %s", out)
	}
	if out := e.ctr("task", "metrics", "--format", "json", "web"); !strings.Contains(out, `"usage_usec"`) {
		t.Errorf("metrics: %s", out)
	}
	for _, c := range []struct {
		args  string
		words string
	}{
		{"task exec --exec-id x web true", "a sealed guest runs none for its host; its owner may by secexec connect"},
		{"task pause web", "a sealed guest can't be paused"},
		{"task kill --signal SIGHUP web", "SIGTERM asks a sealed guest to power off"},
		{"task rm web", "must be stopped before deletion"},
	} {
		if out, status := e.attempt(strings.Fields(c.args)...); status == 0 || !strings.Contains(out, c.words) {
			t.Errorf("%s: status %d %s", c.args, status, out)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		text, _ := os.ReadFile(file.Name())
		t.Errorf("%v\n%s", cmd.ProcessState, text)
	}
	e.clean()
}
