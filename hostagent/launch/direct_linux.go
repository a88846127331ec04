package launch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Direct launches processes as children of hostagent. Each is the leader of a
// session of its own and gets no signal when hostagent ends: it runs on and can be
// adopted. (A service manager must be told to leave it alone: KillMode=process.)
//
// While hostagent lives it reaps its children; a process it adopted belongs to
// init. Needs Linux 5.10.
type Direct struct{}

var _ Launcher = Direct{}

// process is a process watched by one goroutine, which owns the pidfd.
type process struct {
	id     Identity
	fd     *pidfd
	exited chan struct{}

	mu   sync.Mutex // guards exit
	exit Exit
}

var _ Process = (*process)(nil)

// Start implements [Launcher]. The process inherits /dev/null, the log file
// twice, the spec's files and no other file descriptor. It sets no bounds.
func (Direct) Start(ctx context.Context, spec Spec) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p, err := start(spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return p, nil
}

func start(spec Spec) (*process, error) {
	if len(spec.Argv) == 0 {
		return nil, errors.New("no program")
	}
	if spec.UUID != "" && !slices.Equal(uuids(spec.Argv), []string{spec.UUID}) {
		return nil, fmt.Errorf("arguments do not name UUID %s exactly once: FindOrphans could not find the process", spec.UUID)
	}
	log, err := os.OpenFile(spec.LogPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...)
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	cmd.Args = spec.Argv
	cmd.Dir = spec.Dir
	cmd.Env = spec.Env
	if cmd.Env == nil {
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = spec.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Nobody else reaps our child, so its number is its own until Wait below.
	p, err := watch(cmd.Process.Pid, func() Exit {
		cmd.Wait()
		return exitOf(cmd.ProcessState)
	})
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	return p, nil
}

// Adopt implements [Launcher].
func (Direct) Adopt(ctx context.Context, id Identity) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	p, err := adopt(id)
	if err != nil {
		return nil, fmt.Errorf("adopt process: %w", err)
	}
	return p, nil
}

func adopt(id Identity) (*process, error) {
	if id.PID <= 1 {
		return nil, fmt.Errorf("process %d: %w", id.PID, ErrGone)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if id.BootID != boot {
		return nil, fmt.Errorf("process %d ran before the machine was booted: %w", id.PID, ErrGone)
	}
	p, err := watch(id.PID, func() Exit { return Exit{} })
	if err != nil {
		return nil, err
	}
	// watch opened the pidfd before it read the start time. If both match now,
	// the process lived since before the pidfd, so the pidfd is its own.
	if p.id != id {
		p.release()
		return nil, fmt.Errorf("process %d is another one now: %w", id.PID, ErrGone)
	}
	if s, err := readStat(id.PID); err != nil || s.dead() {
		p.release()
		return nil, fmt.Errorf("process %d has ended: %w", id.PID, ErrGone)
	}
	return p, nil
}

// FindOrphans implements [Launcher].
func (d Direct) FindOrphans(ctx context.Context, uuid string) ([]Process, error) {
	ids, err := processesOf(uuid)
	if err != nil {
		return nil, fmt.Errorf("find processes of %s: %w", uuid, err)
	}
	var found []Process
	for _, id := range ids {
		p, err := d.Adopt(ctx, id)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find processes of %s: %w", uuid, err)
		}
		found = append(found, p)
	}
	return found, nil
}

// watch opens a process and starts the goroutine that waits for its end; reap is
// called once then.
func watch(pid int, reap func() Exit) (*process, error) {
	fd, err := openPidfd(pid)
	if err != nil {
		return nil, err
	}
	id, err := identify(pid)
	if err != nil {
		fd.close()
		return nil, err
	}
	p := &process{id: id, fd: fd, exited: make(chan struct{})}
	go func() {
		defer fd.close()
		if fd.wait() != nil {
			return // released
		}
		exit := reap()
		p.mu.Lock()
		p.exit = exit
		p.mu.Unlock()
		close(p.exited)
	}()
	return p, nil
}

// release ends the watch of a process that turned out not to be ours.
func (p *process) release() { p.fd.close() }

func (p *process) Identity() Identity      { return p.id }
func (p *process) Exited() <-chan struct{} { return p.exited }

func (p *process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *process) Kill(ctx context.Context) error {
	if err := p.fd.kill(); err != nil {
		select {
		case <-p.exited: // the watch closes the pidfd after that
			return nil
		default:
			return fmt.Errorf("kill process %d: %w", p.id.PID, err)
		}
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill process %d: wait for its end: %w", p.id.PID, context.Cause(ctx))
	}
}

func exitOf(s *os.ProcessState) Exit {
	if s == nil {
		return Exit{}
	}
	w, ok := s.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return Exit{}
	case w.Signaled():
		return Exit{Code: -1, Signal: w.Signal(), Known: true}
	}
	return Exit{Code: w.ExitStatus(), Known: true}
}

// closeOnExec marks every file descriptor from 3 on, for those that hostagent
// itself was started with: Go opens its own that way. The process to start
// would otherwise hold, say, hostagent's listening socket for as long as it
// lives.
func closeOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("close_range", err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list file descriptors: %w", err)
	}
	for _, e := range entries {
		var fd int
		if n, _ := fmt.Sscanf(e.Name(), "%d", &fd); n == 1 && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
