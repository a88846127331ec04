package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a condition may take on a slow machine that others use
// too. Nothing here passes or fails by being fast.
const patience = 10 * time.Minute

// process is a program that runs beside the test, and ends before it.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string        // path of what it prints
	done chan struct{} // closed when it ended
}

// start runs a program in a process group of its own, in the folder dir, until
// stop or the test's end. What it prints is kept when the test fails.
func start(t *testing.T, dir, name, program string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(logs(t), name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	// Should the test be killed, nothing outlives it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// Pdeathsig minds the thread that started the program: it stays with it.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(p.stop)
	return p
}

// logs returns the folder of a test's logs, which stays when the test fails.
func logs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(repository(), "build", "test-kube", t.Name())
	if _, ok := logged.LoadOrStore(t.Name(), true); ok {
		return dir
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logged.Delete(t.Name())
		if t.Failed() {
			t.Logf("logs: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)            // a log too many harms nobody
		_ = os.Remove(filepath.Dir(dir)) // fails while another test's are there
	})
	return dir
}

// logged has the tests whose folder of logs is made.
var logged sync.Map

// stop asks the program to end, and ends it when it does not.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// kill ends the program as a crash does.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// cpu returns the processor time that a program that ended has taken.
func (p *process) cpu() time.Duration {
	<-p.done
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// ended is an error once the program is no longer there.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %v\n%s", p.name, p.cmd.ProcessState, tail(p.log, 25))
	default:
		return nil
	}
}

// tail returns the last lines of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// eventually calls check until it returns nil. It fails the test with check's
// last error when patience is at its end, or as soon as one of programs ended.
func eventually(t *testing.T, what string, check func(context.Context) error, programs ...*process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		for _, p := range programs {
			if gone := p.ended(); gone != nil {
				t.Fatalf("%s: %v: %v", what, err, gone)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// freePort returns a port of the loopback interface that nobody has just now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run runs a program and returns what it prints.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// processesOf returns the processes that have a folder in their arguments, but
// not the test itself.
func processesOf(t *testing.T, dir string) []int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, path := range all {
		line, err := os.ReadFile(path) // it may have ended
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() && strings.Contains(string(line), dir) {
			out = append(out, pid)
		}
	}
	return out
}
