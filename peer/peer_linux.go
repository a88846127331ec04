// Package peer tells who is at the other end of a unix socket.
package peer

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrStranger is wrapped by the error about a peer that is not trusted.
var ErrStranger = errors.New("neither root nor this process's user")

// Of returns process, user and group of a connection's peer as they were when it
// connected or began to listen (SO_PEERCRED of unix(7)).
func Of(conn net.Conn) (*unix.Ucred, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("ask for the peer: not a unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("ask for the peer: %w", err)
	}
	var who *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { who, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("ask for the peer: %w", err)
	}
	return who, nil
}

// Trusted refuses peers of other users than root and this process's own.
func Trusted(conn net.Conn) error {
	who, err := Of(conn)
	if err != nil {
		return err
	}
	return trusted(who.Uid, os.Geteuid())
}

func trusted(uid uint32, own int) error {
	if uid != 0 && int(uid) != own {
		return fmt.Errorf("user %d is %w", uid, ErrStranger)
	}
	return nil
}
