package launch

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidfd is a process file descriptor: readable once the process has ended.
type pidfd struct {
	file *os.File
	raw  syscall.RawConn
}

// openPidfd opens the process that has the number now.
func openPidfd(pid int) (*pidfd, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, gone(pid, os.NewSyscallError("pidfd_open", err))
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &pidfd{f, raw}, nil
}

// kill sends SIGKILL. An ended process is no error.
func (p *pidfd) kill() error {
	var sent error
	err := p.raw.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, os.NewSyscallError("pidfd_send_signal", sent))
}

func (p *pidfd) close() { p.file.Close() }
