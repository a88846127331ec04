package qemu

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerPID is the number of the process that serves the QMP socket, by
// SO_PEERCRED: whoever adopts a QEMU compares it with the process it adopted.
func (m *Monitor) PeerPID() (int, error) {
	conn, ok := m.conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("ask for QMP peer: not a unix socket")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for QMP peer: %w", err)
	}
	var cred *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failure); err != nil {
		return 0, fmt.Errorf("ask for QMP peer: %w", err)
	}
	return int(cred.Pid), nil
}
