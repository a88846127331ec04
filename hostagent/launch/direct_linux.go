package launch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
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
	program, err := spec.check()
	if err != nil {
		return nil, err
	}
	log, err := openLog(spec.LogPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Args = spec.Argv
	cmd.Dir = spec.Dir
	cmd.Env = spec.environ()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = spec.Files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Nobody else reaps our child, so its number is its own until reap. Of cmd,
	// which holds arguments, environment and a descriptor, no more is kept.
	pid := cmd.Process.Pid
	p, err := watch(Identity{PID: pid}, nil, func() Exit { return reap(pid) })
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	cmd.Process.Release()
	return p, nil
}

// Adopt implements [Launcher].
func (Direct) Adopt(ctx context.Context, id Identity) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	p, err := adopt(id, nil, func() Exit { return Exit{} })
	if err != nil {
		return nil, fmt.Errorf("adopt process: %w", err)
	}
	return p, nil
}

// adopt watches exactly the process of id, if check, which may be nil, is content
// with it too; reap tells how it ended.
func adopt(id Identity, check func(Identity) error, reap func() Exit) (*process, error) {
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
	return watch(id, func(found Identity) error {
		// The pidfd was opened before the start time was read. If both match now,
		// the process lived since before the pidfd, so the pidfd is its own.
		if found.process() != id.process() {
			return fmt.Errorf("process %d is another one now: %w", id.PID, ErrGone)
		}
		if s, err := readStat(id.PID); err != nil || s.dead() {
			return fmt.Errorf("process %d has ended: %w", id.PID, ErrGone)
		}
		if check == nil {
			return nil
		}
		return check(found)
	}, reap)
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

// reap waits for a child and tells how it ended.
func reap(pid int) Exit {
	var w syscall.WaitStatus
	_, err := syscall.Wait4(pid, &w, 0, nil)
	for err == syscall.EINTR {
		_, err = syscall.Wait4(pid, &w, 0, nil)
	}
	if err != nil {
		return Exit{}
	}
	return exitOf(w)
}

func exitOf(w syscall.WaitStatus) Exit {
	if w.Signaled() {
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

func openLog(path string) (*os.File, error) {
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return log, nil
}
