package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// killShim ends the shim of a task with SIGKILL.
func (e *engine) killShim(id string) {
	e.t.Helper()
	pids := e.processes("containerd-shim-secexec-v2", "-id "+id+" ")
	if len(pids) != 1 {
		e.t.Fatalf("task %s has shims %v", id, pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		e.t.Fatal(err)
	}
}

// running are the ids of tasks that run, and of guests that do, which must be
// the same.
func (e *engine) running() (tasks []string) {
	e.t.Helper()
	for line := range strings.Lines(e.ctr("task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "RUNNING" {
			tasks = append(tasks, f[0])
		}
	}
	slices.Sort(tasks)
	return tasks
}

// guest is the guest of a task, or nil.
func (e *engine) guest(id string) *hostagentv1.Guest {
	guests, err := e.guests()
	if err != nil {
		return nil
	}
	for _, g := range guests {
		if strings.HasPrefix(g.Name, "c-"+id+"-") {
			return g
		}
	}
	return nil
}

// stays checks that tasks run and their guests are the processes they were.
func (e *engine) stays(when string, pids map[string]int32) {
	e.t.Helper()
	var want []string
	for id, pid := range pids {
		want = append(want, id)
		if g := e.guest(id); g == nil || g.Pid != pid || g.State != "running" && g.State != "ready" {
			e.t.Errorf("%s: guest of %s was process %d, is %v", when, id, pid, g)
		}
	}
	slices.Sort(want)
	e.until(fmt.Sprintf("%s tasks %v run", when, want), func() bool { return slices.Equal(e.running(), want) })
}

// watch writes containerd's events to a file, as long as this containerd lives.
func (e *engine) watch() *exec.Cmd {
	e.t.Helper()
	file, err := os.OpenFile(e.path("events"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer file.Close()
	cmd := e.command("events")
	cmd.Stdout = file
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	probe := fmt.Sprintf("watched-by-%d", cmd.Process.Pid)
	e.until("events are watched", func() bool {
		e.ctr("namespaces", "create", probe)
		e.ctr("namespaces", "remove", probe)
		text, _ := os.ReadFile(file.Name())
		return strings.Contains(string(text), probe)
	})
	return cmd
}

// exits counts the exits that containerd has told of a task, of those with a
// status.
func (e *engine) exits(id string, status int) (n int) {
	text, _ := os.ReadFile(e.path("events"))
	for line := range strings.Lines(string(text)) {
		code := fmt.Sprintf(`"exit_status":%d`, status)
		if strings.Contains(line, "/tasks/exit ") && strings.Contains(line, `"container_id":"`+id+`"`) && strings.Contains(line, code) {
			n++
		}
	}
	return n
}

// The shim, containerd and hostagent are killed in each combination. While a
// task's shim lives its guest goes on and its end is told; the guest of a shim
// that was killed is ended and deleted, by the delete command or, where hostagent
// was away, as soon as there is one. Nothing is left of any.
func TestKilled(t *testing.T) {
	t.Parallel()
	e := newEngine(t, "wait")
	watch := e.watch()
	unwatch := func() {
		_ = watch.Process.Kill()
		_ = watch.Wait()
	}
	defer func() { unwatch() }()
	console := e.detached("stays")
	pids := map[string]int32{"stays": e.guest("stays").Pid}
	for _, id := range []string{"a", "b", "c", "d"} {
		e.ctr("run", "--detach", "--snapshotter", "native", "--runtime", "io.containerd.secexec.v2", "secexec.test/wait:latest", id)
		pids[id] = e.guest(id).Pid
	}
	e.stays("at first", pids)

	restart := func(containerd, hostagent bool) {
		if containerd {
			e.kill(e.containerd)
			unwatch()
		}
		if hostagent {
			e.kill(e.hostagent)
		}
		if containerd {
			e.startContainerd()
			watch = e.watch()
		}
		if hostagent {
			e.startHostagent()
		}
	}
	restart(false, true)
	e.stays("after hostagent", pids)
	restart(true, false)
	e.stays("after containerd", pids)
	restart(true, true)
	e.stays("after both", pids)

	gone := func(when, id string) {
		e.t.Helper()
		delete(pids, id)
		e.until(fmt.Sprintf("the guest of %s is gone %s", id, when), func() bool { return e.guest(id) == nil })
		e.stays(when, pids)
		e.ctr("containers", "rm", id)
	}
	e.killShim("a")
	gone("after the shim", "a")
	e.until("the exit of a is told", func() bool { return e.exits("a", 137) == 1 })

	e.kill(e.hostagent) // first, so that delete finds none
	e.killShim("b")
	e.until("containerd has given b up", func() bool { return !slices.Contains(e.running(), "b") })
	e.startHostagent()
	gone("after shim and hostagent", "b")
	e.until("the exit of b is told", func() bool { return e.exits("b", 137) == 1 })

	e.kill(e.containerd)
	e.killShim("c")
	e.startContainerd()
	gone("after shim and containerd", "c")

	e.kill(e.containerd)
	e.kill(e.hostagent)
	e.killShim("d")
	e.startContainerd()
	e.until("containerd has given d up", func() bool { return !slices.Contains(e.running(), "d") })
	e.startHostagent()
	gone("after all three", "d")

	// What was left alone all the time ends in order, and tells its status.
	unwatch()
	watch = e.watch()
	e.ready("stays") // one that isn't can't hear
	e.ctr("task", "kill", "--signal", "SIGTERM", "stays")
	e.says(console, "guest: got terminated")
	e.until("stays has ended", func() bool { _, status := e.task("stays"); return status == "STOPPED" })
	e.until("its exit is told", func() bool { return e.exits("stays", 7) == 1 })
	if out := e.ctr("task", "rm", "stays"); !strings.Contains(out, "exit code 7") {
		t.Errorf("its task's deletion says %s", out)
	}
	e.ctr("containers", "rm", "stays")
	unwatch()
	e.clean()
	for id, status := range map[string]int{"a": 137, "b": 137, "stays": 7} {
		if n := e.exits(id, status); n != 1 {
			t.Errorf("%d exits of %s were told", n, id)
		}
	}
}
