package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the processes that the tests start.
const roleEnv = "LAUNCH_TEST_ROLE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "exec" {
		fmt.Fprintln(os.Stderr, Exec())
		os.Exit(1)
	}
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "sleep":
		time.Sleep(time.Minute)
	case "exit":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		os.Exit(7)
	case "surroundings":
		surroundings()
	case "device":
		reach("/dev/kvm", "/dev/net/tun", "/dev/vsock", "/dev/fuse")
	case "unit launcher":
		unitLauncher()
	case "launcher":
		launcher()
	}
	os.Exit(0)
}

// surroundings tells what a started process finds.
func surroundings() {
	var what struct {
		Files, Env []string
		SID, PID   int
		Dir        string
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			what.Files = append(what.Files, e.Name()+" "+target)
		}
	}
	what.Env = os.Environ()
	what.SID, _ = unix.Getsid(0)
	what.PID = os.Getpid()
	what.Dir, _ = os.Getwd()
	json.NewEncoder(os.Stdout).Encode(what)
}

// reach tells which files can be opened for writing, and whether a socket can be
// made.
func reach(paths ...string) {
	for _, path := range paths {
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			f.Close()
			fmt.Println(path)
		}
	}
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
		unix.Close(fd)
		fmt.Println("socket")
	}
}

// launcher starts a process, tells its identity and waits to be killed.
func launcher() {
	p, err := Direct{}.Start(context.Background(), role("sleep", os.Getenv("LAUNCH_TEST_LOG")))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(p.Identity())
	time.Sleep(time.Minute)
}

const testUUID = "6d1f3d90-8c86-4a2f-9d3c-000000000001"

func role(name, log string) Spec {
	return Spec{
		Name: "test", UUID: testUUID, Argv: []string{os.Args[0], "-uuid", testUUID}, Dir: "/", LogPath: log,
		Env: []string{roleEnv + "=" + name},
	}
}

// withPidfd skips where the kernel or qemu-user has no process descriptors or
// cannot start the test's own program.
func withPidfd(t *testing.T) {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Skipf("pidfd_open does not work here (%v): needs Linux 5.10 and no emulation of system calls", err)
	}
	unix.Close(fd)
	if err := runSelf(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("the kernel cannot run this test's own program: emulation by qemu-user without binfmt_misc")
	}
}

// runSelf tells whether the test binary can be started as a process.
var runSelf = sync.OnceValue(func() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{roleEnv + "=nothing"}
	return cmd.Run()
})

func startRole(t *testing.T, name string) (Process, string) {
	t.Helper()
	withPidfd(t)
	log := filepath.Join(t.TempDir(), "log")
	p, err := Direct{}.Start(t.Context(), role(name, log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(context.Background()) })
	return p, log
}

func waitExit(t *testing.T, p Process) Exit {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("process did not end")
	}
	return p.Exit()
}

func TestExitStatusOfAChild(t *testing.T) {
	t.Parallel()
	p, log := startRole(t, "exit")
	if got, want := waitExit(t, p), (Exit{Code: 7, Known: true}); got != want {
		t.Errorf("exit %+v, want %+v", got, want)
	}
	text, err := os.ReadFile(log)
	if err != nil || string(text) != "to stdout\nto stderr\n" {
		t.Errorf("log %q, %v", text, err)
	}
	if info, _ := os.Stat(log); info.Mode() != 0o600 {
		t.Errorf("log has mode %v", info.Mode())
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("kill of an ended process: %v", err)
	}
	// Reaped: no zombie is left.
	if _, err := readStat(p.Identity().PID); !errors.Is(err, ErrGone) {
		t.Errorf("process is still there: %v", err)
	}
}

func TestKillAChild(t *testing.T) {
	t.Parallel()
	p, _ := startRole(t, "sleep")
	if got := p.Exit(); got != (Exit{}) {
		t.Errorf("exit of a running process: %+v", got)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); !got.Known || got.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v, want SIGKILL", got)
	}
}

func TestSurroundingsOfAChild(t *testing.T) {
	withPidfd(t)
	// A descriptor as systemd or a shell would leave it open in hostagent.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	leak, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)

	p, log := startRole(t, "surroundings")
	if got := waitExit(t, p); got != (Exit{Known: true}) {
		t.Fatalf("exit %+v", got)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Files, Env []string
		SID, PID   int
		Dir        string
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	for _, f := range got.Files {
		fd, target, _ := strings.Cut(f, " ")
		switch {
		case fd == "0" && target == "/dev/null", (fd == "1" || fd == "2") && target == log:
		case strings.HasPrefix(target, "anon_inode:"), strings.HasPrefix(target, "/proc/"),
			strings.HasPrefix(target, "/sys/fs/cgroup/"): // the Go runtime's own
		default:
			t.Errorf("process has file descriptor %s", f)
		}
	}
	if len(got.Env) != 1 {
		t.Errorf("environment %q", got.Env)
	}
	if got.SID != got.PID {
		t.Errorf("process %d is in session %d, not its own", got.PID, got.SID)
	}
	if got.Dir != "/" {
		t.Errorf("process works in %s", got.Dir)
	}
}

func TestStartFailures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		spec Spec
		want error
	}{
		{"no argument", t.Context(), Spec{LogPath: log}, nil},
		{"no program", t.Context(), Spec{LogPath: log, Argv: []string{dir + "/none"}}, os.ErrNotExist},
		{"not in PATH", t.Context(), Spec{LogPath: log, Argv: []string{"no-such-program-here"}}, exec.ErrNotFound},
		{"no folder of the log", t.Context(), Spec{LogPath: dir + "/none/log", Argv: []string{"true"}}, os.ErrNotExist},
		{"log is a link", t.Context(), Spec{LogPath: link, Argv: []string{"true"}}, syscall.ELOOP},
		{"no working directory", t.Context(), Spec{LogPath: log, Argv: []string{"true"}, Dir: dir + "/none"}, os.ErrNotExist},
		{"UUID not in arguments", t.Context(), Spec{LogPath: log, Argv: []string{"true"}, UUID: testUUID}, nil},
		{"context done", done, Spec{LogPath: log, Argv: []string{"true"}}, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Direct{}.Start(c.ctx, c.spec)
			if err == nil {
				p.Kill(context.Background())
				t.Fatal("started")
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestAdoptRefusesAnotherProcess(t *testing.T) {
	t.Parallel()
	p, _ := startRole(t, "sleep")
	id := p.Identity()
	for _, c := range []struct {
		name string
		id   Identity
	}{
		{"number used again", Identity{PID: id.PID, StartTicks: id.StartTicks + 1, BootID: id.BootID}},
		{"earlier start", Identity{PID: id.PID, StartTicks: id.StartTicks - 1, BootID: id.BootID}},
		{"another boot", Identity{PID: id.PID, StartTicks: id.StartTicks, BootID: "00000000-0000-0000-0000-000000000000"}},
		{"no boot", Identity{PID: id.PID, StartTicks: id.StartTicks, BootID: ""}},
		{"free number", Identity{PID: 1 << 22, StartTicks: id.StartTicks, BootID: id.BootID}}, // over the kernel's highest pid_max
		{"zero", Identity{PID: 0, StartTicks: id.StartTicks, BootID: id.BootID}},
		{"negative", Identity{PID: -id.PID, StartTicks: id.StartTicks, BootID: id.BootID}},
		{"init", Identity{PID: 1, StartTicks: id.StartTicks, BootID: id.BootID}},
	} {
		if _, err := (Direct{}).Adopt(t.Context(), c.id); !errors.Is(err, ErrGone) {
			t.Errorf("%s: error %v, want ErrGone", c.name, err)
		}
	}
	again, err := Direct{}.Adopt(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := again.Exit(); got.Known {
		t.Errorf("exit of an adopted process is known: %+v", got)
	}
	waitExit(t, p)
	if _, err := (Direct{}).Adopt(t.Context(), id); !errors.Is(err, ErrGone) {
		t.Errorf("adopt of an ended process: %v, want ErrGone", err)
	}
}

// A launcher that is killed with -9 leaves its process running; the next one
// adopts it by its stored identity, or finds it by UUID when the identity was
// never stored.
func TestProcessOutlivesItsLauncher(t *testing.T) {
	t.Parallel()
	withPidfd(t)
	uuid := testUUID
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{roleEnv + "=launcher", "LAUNCH_TEST_LOG=" + filepath.Join(t.TempDir(), "log")}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(io.LimitReader(out, 4096)).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var id Identity
	if err := json.Unmarshal(line, &id); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()

	p, err := Direct{}.Adopt(t.Context(), id)
	if err != nil {
		t.Fatalf("the process died with its launcher: %v", err)
	}
	if p.Identity() != id {
		t.Errorf("identity %+v, want %+v", p.Identity(), id)
	}
	found, err := Direct{}.FindOrphans(t.Context(), uuid)
	if err != nil {
		t.Fatal(err)
	}
	var orphan Process
	for _, f := range found {
		if f.Identity() == id {
			orphan = f
		}
	}
	if orphan == nil {
		t.Fatalf("process %+v is not among the orphans %v", id, found)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Process{p, orphan} {
		if got := waitExit(t, p); got != (Exit{}) {
			t.Errorf("exit %+v, want unknown", got)
		}
	}
	if none, err := (Direct{}).FindOrphans(t.Context(), "00000000-1111-2222-3333-444444444444"); err != nil || len(none) != 0 {
		t.Errorf("orphans of an unknown guest: %v, %v", none, err)
	}
}

// A watch costs a goroutine in the runtime's poller, not a thread.
func TestWatchCostsNoThread(t *testing.T) {
	withPidfd(t)
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Skipf("cannot count threads: %v", err)
		}
		return len(entries)
	}
	p, _ := startRole(t, "sleep")
	before := threads()
	const watches = 64
	for range watches {
		q, err := Direct{}.Adopt(t.Context(), p.Identity())
		if err != nil {
			t.Fatal(err)
		}
		defer waitExit(t, q)
	}
	runtime.Gosched()
	if grown := threads() - before; grown > watches/4 {
		t.Errorf("%d watches started %d threads", watches, grown)
	}
	p.Kill(t.Context())
}

func TestExitInWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		exit Exit
		want string
	}{
		{Exit{}, "ended, exit status unknown"},
		{Exit{Known: true}, "exit status 0"},
		{Exit{Code: 1, Known: true}, "exit status 1"},
		{Exit{Code: -1, Signal: syscall.SIGKILL, Known: true}, "killed by signal 9 (killed)"},
	} {
		if got := c.exit.String(); got != c.want {
			t.Errorf("%+v says %q, want %q", c.exit, got, c.want)
		}
	}
}
