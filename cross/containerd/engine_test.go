package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// patience is for what takes a moment here and may take long on a busy machine.
const patience = 3 * time.Minute

// engine is a containerd with a hostagent, a test's own.
type engine struct {
	t          *testing.T
	dir        string   // short: it holds sockets
	flags      []string // of ctr
	pods       []string // NAMESPACE/SANDBOX, for their shims' sockets
	containerd *exec.Cmd
	hostagent  *exec.Cmd
}

// newEngine starts both and imports a bundle's image. At the test's end both are
// ended and nothing of them may be left.
func newEngine(t *testing.T, bundles ...string) *engine {
	t.Helper()
	need(t)
	e := newEngineWith(t, "", nil)
	for _, b := range bundles {
		path, _ := image(t, b)
		e.ctr("images", "import", "--snapshotter", "native", path)
	}
	return e
}

// newEngineWith starts both, with a configuration for containerd's CRI plugin
// unless that is empty, in which DIR stands for the engine's folder as in the
// files; ctr gets further flags.
func newEngineWith(t *testing.T, cri string, files map[string]string, flags ...string) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctr-")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, dir: dir, flags: flags}
	disabled := []string{"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"}
	if cri == "" {
		disabled = append(disabled, "io.containerd.grpc.v1.cri")
	}
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["%s"]
[grpc]
  address = %q
`, e.path("root"), e.path("state"), strings.Join(disabled, `", "`), e.path("c.sock")) + cri
	write := func(name, text string) {
		err := os.MkdirAll(filepath.Dir(e.path(name)), 0o700)
		if err == nil {
			err = os.WriteFile(e.path(name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("config.toml", config)
	for name, text := range files {
		write(name, text)
	}
	t.Cleanup(e.end)
	e.startHostagent()
	e.startContainerd()
	return e
}

func (e *engine) path(name string) string { return filepath.Join(e.dir, name) }

// spawn starts a daemon whose output goes to a log.
func (e *engine) spawn(name string, args ...string) *exec.Cmd {
	e.t.Helper()
	log, err := os.OpenFile(e.path(filepath.Base(name)+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+lab.dir+":"+os.Getenv("PATH"), "SECEXEC_SOCKET="+e.path("h.sock"), "SECEXEC_SHIM_STATE="+e.path("shims"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	return cmd
}

func (e *engine) startHostagent() {
	e.t.Helper()
	e.hostagent = e.spawn(filepath.Join(lab.dir, "hostagent"), "--platform", "emulated", "--emulated-host", filepath.Join(lab.dir, "host"),
		"--state", e.path("guests"), "--runtime", e.path("run"), "--socket", e.path("h.sock"))
	e.until("hostagent answers", func() bool {
		_, err := e.guests()
		return err == nil
	})
}

func (e *engine) startContainerd() {
	e.t.Helper()
	e.containerd = e.spawn("containerd", "--config", e.path("config.toml"), "--log-level", "debug")
	e.until("containerd answers", func() bool { return e.command("version").Run() == nil })
}

// kill ends a daemon with SIGKILL.
func (e *engine) kill(cmd *exec.Cmd) {
	e.t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		e.t.Fatal(err)
	}
	_ = cmd.Wait()
}

// guests are hostagent's.
func (e *engine) guests() ([]*hostagentv1.Guest, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, e.path("h.sock"), nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.List(ctx)
}

// until waits for a condition.
func (e *engine) until(what string, ok func() bool) {
	e.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			e.t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// command is ctr on this containerd.
func (e *engine) command(args ...string) *exec.Cmd {
	return exec.Command("ctr", slices.Concat([]string{"--address", e.path("c.sock")}, e.flags, args)...)
}

// ctr runs ctr, which must succeed.
func (e *engine) ctr(args ...string) string {
	e.t.Helper()
	out, err := e.command(args...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// attempt runs ctr, which may fail.
func (e *engine) attempt(args ...string) (string, int) {
	cmd := e.command(args...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// detached starts a guest whose console goes to a file, and waits until it says
// that it waits.
func (e *engine) detached(id string) (console string) {
	e.t.Helper()
	console = e.path(id + ".console")
	e.ctr("run", "--detach", "--log-uri", "file://"+console, "--snapshotter", "native", "--runtime", "io.containerd.secexec.v2", "secexec.test/wait:latest", id)
	e.says(console, "guest: waits")
	return console
}

func (e *engine) says(console, text string) {
	e.t.Helper()
	e.until(fmt.Sprintf("%s holds %q", console, text), func() bool {
		out, _ := os.ReadFile(console)
		return bytes.Contains(out, []byte(text))
	})
}

// task is ctr task ls's line about a task.
func (e *engine) task(id string) (pid int, status string) {
	e.t.Helper()
	for line := range strings.Lines(e.ctr("task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			pid, _ = strconv.Atoi(f[1])
			return pid, f[2]
		}
	}
	return 0, ""
}

// processes are those whose arguments name the engine's folder or its shims.
func (e *engine) processes(words ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		env, _ := os.ReadFile("/proc/" + entry.Name() + "/environ")
		if !bytes.Contains(cmdline, []byte(e.dir)) && !bytes.Contains(env, []byte(e.dir)) {
			continue
		}
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		for _, w := range words {
			if !strings.Contains(text, w) {
				pid = 0
			}
		}
		if pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// shims are the processes that serve tasks.
func (e *engine) shims() []int { return e.processes("containerd-shim-secexec-v2", "-id") }

// leftovers lists what is left of tasks.
func (e *engine) leftovers() (left []string) {
	for _, pid := range e.processes() {
		if pid != e.containerd.Process.Pid && pid != e.hostagent.Process.Pid {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, e.dir) {
			left = append(left, "mount "+line)
		}
	}
	if guests, err := e.guests(); err != nil || len(guests) > 0 {
		left = append(left, fmt.Sprintf("guests %v %v", guests, err))
	}
	for _, pattern := range []string{"shims/*.json", "state/io.containerd.runtime.v2.task/*/*", "root/io.containerd.runtime.v2.task/*/*", "guests/guests/*", "run/guests/*"} {
		files, _ := filepath.Glob(e.path(pattern))
		left = append(left, files...)
	}
	for _, socket := range e.sockets() {
		left = append(left, "socket "+socket)
	}
	return left
}

// sockets are those of this containerd's shims: the folder is every containerd's.
func (e *engine) sockets() (left []string) {
	of := slices.Clone(e.pods)
	for _, id := range []string{"web", "stays", "a", "b", "c", "d"} {
		of = append(of, "default/"+id)
	}
	for _, task := range of {
		path := fmt.Sprintf("/run/containerd/s/%x", sha256.Sum256([]byte(filepath.Join(e.path("c.sock"), task))))
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	return left
}

// clean waits until nothing is left of any task.
func (e *engine) clean() {
	e.t.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if left = e.leftovers(); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			e.t.Fatalf("left:\n%s", strings.Join(left, "\n"))
		}
	}
}

// end ends both daemons, and what should have ended before.
func (e *engine) end() {
	for _, cmd := range []*exec.Cmd{e.containerd, e.hostagent} {
		if cmd != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	for _, pid := range e.processes() {
		e.t.Errorf("process %d is left", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if e.t.Failed() {
		for _, name := range []string{"hostagent.log", "containerd.log"} {
			text, _ := os.ReadFile(e.path(name))
			e.t.Logf("%s:\n%s", name, text[max(0, len(text)-20000):])
		}
	}
	os.RemoveAll(e.dir)
}
