package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// As what this binary is run.
const (
	roleVariable = "SECEXEC_SUPERVISE_ROLE"
	asInit       = "init"
	asProgram    = "program"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case asInit:
		os.Exit(beInit())
	case asProgram:
		beProgram()
	}
	os.Exit(m.Run())
}

// TestAsInit runs a Supervisor as PID 1 of namespaces, in a root of its own: its
// program fails once, leaving a process behind, then is asked to restart and to
// stop.
func TestAsInit(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("makes device nodes and cgroups: wants root")
	}
	root := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{roleVariable + "=" + asInit, "ROOT=" + root}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		t.Skip("no namespaces here: ", err)
	}
	text := string(out)
	if _, why, ok := strings.Cut(text, "skipped: "); ok {
		t.Skip("no place for a guest's init here: ", why)
	}
	for _, want := range []string{
		"RUNNING 0\n", "EXITED 3 0\n", "RUNNING 1\n", "EXITED 0 1\n", "RUNNING 2\n", "EXITED 7 2\n", "DONE 7\n", "status 7, <nil>\n",
		"uid 1000 gid 1001 groups [5] dir /work/dir", "env [A=b " + roleVariable + "=program NOTIFY=x]",
		"CapPrm: 0000000000000400", "CapBnd: 00000000000004c1", "CapAmb: 0000000000000400", "NoNewPrivs: 1",
		"stdout by path: <nil>", "write /proc/sys/kernel/hostname: open /proc/sys/kernel/hostname: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if err != nil || strings.Contains(text, "orphan is there") || t.Failed() {
		t.Errorf("%v\n%s", err, text)
	}
}

// beInit is PID 1 of the namespaces, in a root of its own.
func beInit() int {
	if err := makeRoot(os.Getenv("ROOT")); err != nil {
		fmt.Println("skipped:", err)
		return 0
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		beAgent(pair[1])
	}()
	w := &sealed.Workload{
		Args: []string{"/program", "x"}, Env: []string{"A=b", roleVariable + "=" + asProgram}, UID: 1000, GID: 1001, Groups: []uint32{5}, Dir: "/work/dir",
		Capabilities: 1<<10 | 0xc1, Ambient: 1 << 10, NoNewPrivs: true, StopSignal: 15, StopSeconds: 20, Restart: sealed.RestartOnFailure, MaxRestarts: 3, WindowSecs: 600,
	}
	path, err := Find("/", w)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s := Supervisor{Workload: w, Path: path, Env: []string{"NOTIFY=x"}, Agent: pair[0], Console: -1, Failed: func() { fmt.Println("can't be started") }}
	status, err := s.Run()
	_ = unix.Shutdown(pair[0], unix.SHUT_RDWR)
	<-done
	fmt.Printf("status %d, %v\n", status, err)
	return 0
}

// makeRoot makes a root in memory with this program in it, and goes there.
func makeRoot(root string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range []struct{ kind, path, source string }{
		{"tmpfs", "", ""}, {"proc", "proc", ""}, {"sysfs", "sys", ""}, {"cgroup2", "sys/fs/cgroup", ""}, {"", "program", self},
	} {
		path := filepath.Join(root, m.path)
		flags := uintptr(0)
		if m.source != "" {
			flags = unix.MS_BIND
			if err := os.WriteFile(path, nil, 0o755); err != nil {
				return err
			}
		} else if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, path, m.kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "work"), 0o777); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "work"), 0o777); err != nil {
		return err
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// beAgent prints what guestinit says, and asks for a restart, then for a stop.
func beAgent(fd int) {
	requests := []workload.Message{workload.Restart{}, workload.Stop{}}
	b := make([]byte, workload.MaxMessage)
	for {
		n, err := unix.Read(fd, b)
		if n <= 0 {
			return
		}
		m, err := workload.ParseInit(b[:n])
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s\n", m.Bytes())
		if l, ok := m.(workload.Log); ok && bytes.Contains(l.Text, []byte("waits\n")) && len(requests) > 0 {
			_ = unix.Send(fd, requests[0].Bytes(), 0)
			requests = requests[1:]
		}
	}
}

// beProgram is the workload.
func beProgram() {
	if slices.Contains(os.Args, "orphan") {
		time.Sleep(time.Hour)
	}
	runs, _ := os.ReadFile("/work/runs")
	if err := os.WriteFile("/work/runs", append(runs, '.'), 0o600); err != nil {
		fmt.Println(err)
	}
	if len(runs) == 0 {
		report()
		cmd := exec.Command("/proc/self/exe", "orphan")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
		}
		os.Exit(3)
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline"); strings.Contains(string(cmdline), "\x00orphan") {
			fmt.Println("orphan is there")
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	fmt.Println("waits")
	<-stop
	if len(runs) == 1 {
		os.Exit(0)
	}
	os.Exit(7)
}

func report() {
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	fmt.Printf("uid %d gid %d groups %v dir %s\nenv %v\n", os.Getuid(), os.Getgid(), groups, dir, os.Environ())
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		fmt.Println(strings.Join(strings.Fields(line), " "))
	}
	_, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	fmt.Println("stdout by path:", err)
	fmt.Println("write /proc/sys/kernel/hostname:", os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0))
}
