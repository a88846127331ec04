package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Admission decides who may call, by the credentials of the socket's peer
// (SO_PEERCRED): root, hostagent's own user, and members of one group.
type Admission struct {
	Group int // group id, -1: none
	Log   *slog.Logger
}

// ErrPeer says that a caller was turned away.
var ErrPeer = errors.New("caller may not use this hostagent")

// Handshake implements ttrpc.Handshaker.
func (a Admission) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("%w: not over a unix socket", ErrPeer)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, nil, err
	}
	if credErr != nil {
		return nil, nil, credErr
	}
	if !a.admits(cred, groups(cred.Pid)) {
		a.Log.Warn("caller turned away", "uid", cred.Uid, "pid", cred.Pid)
		return nil, nil, fmt.Errorf("%w: uid %d", ErrPeer, cred.Uid)
	}
	return conn, cred, nil
}

func (a Admission) admits(cred *unix.Ucred, supplementary []int) bool {
	return cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()) ||
		a.Group >= 0 && (cred.Gid == uint32(a.Group) || slices.Contains(supplementary, a.Group))
}

// groups reads a process's supplementary groups. The socket's mode lets only
// members connect in the first place; this is the second lock.
func groups(pid int32) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "Groups:"); ok {
			var out []int
			for _, word := range strings.Fields(list) {
				if n, err := strconv.Atoi(word); err == nil {
					out = append(out, n)
				}
			}
			return out
		}
	}
	return nil
}
