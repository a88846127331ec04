package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

const failNotify failure = "G160"

// openNotify makes the workload's notification socket, if the owner sealed that
// the guest is ready at READY=1; otherwise it returns -1. /run moves into the
// root with it.
//
// Its mode says who may make the guest ready: root and, where the workload is one
// program, that program's user. No credentials are looked at: a socket's file
// mode is what the kernel checks of a sender.
func openNotify(record *sealed.Record) (int, error) {
	if record.Ready != sealed.ReadyAtNotify {
		return -1, nil
	}
	if err := os.MkdirAll(filepath.Dir(workload.NotifyPath), 0o755); err != nil {
		return -1, fmt.Errorf("make folder: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make notification socket: %w", err)
	}
	before := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: workload.NotifyPath})
	unix.Umask(before)
	if err == nil && record.Workload != nil {
		err = os.Chown(workload.NotifyPath, int(record.Workload.UID), int(record.Workload.GID))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", workload.NotifyPath, err)
	}
	return fd, nil
}

// notifyEnv tells the root's init where the socket is. systemd says READY=1 when
// it has started all of its default target, and STOPPING=1 before it ends.
func notifyEnv(record *sealed.Record) []string {
	if record.Ready != sealed.ReadyAtNotify {
		return nil
	}
	return []string{"NOTIFY_SOCKET=" + workload.NotifyPath}
}
