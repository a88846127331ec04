// Package supervise runs the one program of a root that has no init, such as a
// container image's entry point, while guestinit stays PID 1: it gives the
// program user, rights, mounts and environment as container engines do, reaps,
// restarts and stops it, and carries its output.
package supervise

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// Bounds of waiting.
const (
	restPatience  = 5 * time.Second // for what the program leaves behind, once killed
	drainPatience = 2 * time.Second // for its last words
)

// openFiles is the limit that container engines give: as much as the kernel's
// fs.nr_open allows.
const openFiles = 1 << 20

// Supervisor runs a workload.
type Supervisor struct {
	Workload *sealed.Workload
	Path     string   // of the program, from Find
	Env      []string // beside the workload's
	Agent    int      // socket to guestagent, package workload
	Hold     bool     // start only when guestagent says that all secrets are there
	Failed   func()   // told when the program can't be started; may be nil

	process
	cgroup *cgroup
	output *output
	drawn  chan struct{} // closed when output has ended
	m      *Machine
	pid    int // 0: none
}

// Run runs the workload until it is not run again, and returns its last status.
// Then all that it started has ended, and guestagent was told.
func (s *Supervisor) Run() (status uint8, err error) {
	if err := s.prepare(); err != nil {
		return 0, err
	}
	// Where the host presses the power button, or ctrl-alt-del, the kernel asks
	// PID 1 instead of rebooting.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	children := make(chan os.Signal, 1) // one stands for all
	signal.Notify(children, unix.SIGCHLD)
	// QUIT and the like would end a Go program, and with PID 1 the guest.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT, unix.SIGABRT)
	asked := make(chan workload.Message)
	go s.listen(asked)

	s.m = NewMachine(s.Workload, time.Now(), rand.Float64)
	held := s.Hold
	timer := time.NewTimer(0)
	if held {
		timer.Stop()
	}
	for {
		todo := Nothing
		select {
		case <-children:
			todo = s.reap()
		case <-timer.C:
			todo = s.m.Tick(time.Now())
		case sig := <-signals:
			switch sig {
			case unix.SIGTERM, unix.SIGINT, unix.SIGPWR:
				todo = s.m.AskStop(time.Now())
			default:
				s.signal(sig.(syscall.Signal))
			}
		case m := <-asked:
			switch m.(type) {
			case workload.Stop:
				todo = s.m.AskStop(time.Now())
			case workload.Restart:
				if !held {
					todo = s.m.AskRestart(time.Now())
				}
			case workload.Secrets:
				held = false
			}
		}
		for todo != Nothing {
			if todo == PowerOff {
				s.finish()
				return s.m.Status, nil
			}
			todo = s.do(todo)
		}
		if due, ok := s.m.Deadline(); ok && !held {
			timer.Reset(time.Until(due))
		} else {
			timer.Stop()
		}
	}
}

func (s *Supervisor) do(todo Action) Action {
	switch todo {
	case Start:
		return s.start()
	case Stop:
		s.signal(syscall.Signal(s.Workload.StopSignal))
	case Kill:
		s.cgroup.kill()
	}
	return Nothing
}

func (s *Supervisor) start() Action {
	pid, err := s.process.start()
	if err != nil {
		s.output.tell(workload.Log{Err: true, Text: fmt.Appendf(nil, "secexec: start %s: %v\n", s.Path, err)})
		if s.Failed != nil {
			s.Failed()
		}
		return s.ended(startStatus(err))
	}
	s.pid = pid
	s.m.Started(time.Now())
	s.say(workload.Running{Restarts: s.m.Restarts()})
	return Nothing
}

// reap takes the status of all that has ended. Orphans are PID 1's children.
func (s *Supervisor) reap() Action {
	status, ended := s.wait()
	if !ended {
		return Nothing
	}
	s.pid = 0
	return s.ended(status)
}

// wait reaps, and tells whether the program was among them.
func (s *Supervisor) wait() (status uint8, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid <= 0:
			return status, ended
		case pid == s.pid && (ws.Exited() || ws.Signaled()):
			status, ended = exitStatus(ws), true
		}
	}
}

// ended ends what the program has left behind: with a container's first process
// all of the container ends.
func (s *Supervisor) ended(status uint8) Action {
	_ = s.cgroup.empty(restPatience, func() { s.wait() })
	s.say(workload.Exited{Status: status, Restarts: s.m.Restarts()})
	return s.m.Exited(status, time.Now())
}

// signal signals the program, and nothing where none runs.
func (s *Supervisor) signal(sig syscall.Signal) {
	if s.pid > 0 {
		_ = unix.Kill(s.pid, sig)
	}
}

// listen hands on what guestagent asks for, until it is gone; its loss never
// hurts the workload.
func (s *Supervisor) listen(asked chan<- workload.Message) {
	b := make([]byte, workload.MaxMessage+1)
	for {
		n, err := unix.Read(s.Agent, b)
		switch {
		case err == unix.EINTR:
		case n <= 0:
			return
		default:
			if m, err := workload.ParseAgent(b[:n]); err == nil {
				select {
				case asked <- m:
				case <-s.drawn:
					return
				}
			}
		}
	}
}

// say tells guestagent, or nobody: it waits for nothing.
func (s *Supervisor) say(m workload.Message) {
	_ = unix.Send(s.Agent, m.Bytes(), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// prepare makes what all runs of the program share.
func (s *Supervisor) prepare() error {
	var err error
	if s.cgroup, err = makeCgroup(); err != nil {
		return err
	}
	if err := makeMounts(s.Workload); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Workload.Dir, 0o755); err != nil { // as container engines do
		return fmt.Errorf("make working directory: %w", err)
	}
	// Set by syscall, it is the program's limit, too.
	_ = syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: openFiles, Max: openFiles})
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	s.process = process{w: s.Workload, path: s.Path, env: append(s.Workload.Env[:len(s.Workload.Env):len(s.Workload.Env)], s.Env...), cgroup: s.cgroup.dir}
	s.files[0] = null
	s.output = &output{console: -1, agent: s.Agent}
	for i := range 2 {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		// /dev/stdout is opened by the program as who it is.
		if err := unix.Fchown(pipe[1], int(s.Workload.UID), int(s.Workload.GID)); err != nil {
			return fmt.Errorf("give pipe to the workload: %w", err)
		}
		s.output.pipes[i], s.files[i+1] = pipe[0], pipe[1]
	}
	if fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		s.output.console = fd
	}
	s.drawn = make(chan struct{})
	go func() {
		defer close(s.drawn)
		s.output.run()
	}()
	return nil
}

// finish lets the last words out and tells guestagent that this is the end.
func (s *Supervisor) finish() {
	s.cgroup.kill()
	unix.Close(s.files[1])
	unix.Close(s.files[2])
	select {
	case <-s.drawn:
	case <-time.After(drainPatience):
	}
	s.say(workload.Done{Status: s.m.Status})
}
