package launch

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidfd is a process file descriptor in the care of the runtime's poller: to
// wait on it costs a goroutine, not a thread.
type pidfd struct {
	file *os.File
	raw  func(func(fd uintptr) bool) error // waits until readable
}

// openPidfd opens the process that has the number now.
func openPidfd(pid int) (*pidfd, error) {
	// PIDFD_NONBLOCK (Linux 5.10) makes os.NewFile hand the descriptor to the
	// poller.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, gone(pid, os.NewSyscallError("pidfd_open", err))
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of process %d", pid))
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &pidfd{f, raw.Read}, nil
}

// wait returns nil once the process has ended, or an error if close came first.
func (p *pidfd) wait() error {
	var failure error
	err := p.raw(func(fd uintptr) bool {
		ended, err := pollable(fd)
		failure = err
		return ended || err != nil
	})
	return errors.Join(err, failure)
}

// pollable asks without waiting whether the process has ended: its descriptor is
// readable then.
func pollable(fd uintptr) (bool, error) {
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(set, 0)
		if err == unix.EINTR {
			continue
		}
		return n == 1 && set[0].Revents != 0, os.NewSyscallError("poll", err)
	}
}

// kill sends SIGKILL. An ended process is no error.
func (p *pidfd) kill() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, os.NewSyscallError("pidfd_send_signal", sent))
}

func (p *pidfd) close() { p.file.Close() }
