package api

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
)

// Admission decides who may call, and as what: root, hostagent's own user and
// the members of Admins administer, the members of Tenants are tenants.
type Admission struct {
	Admins  int // group id, -1: none
	Tenants int // group id, -1: none
}

// Unix admits a peer over a unix socket by its credentials at the time that it
// connected (SO_PEERCRED, SO_PEERGROUPS).
func (a Admission) Unix(_ context.Context, conn net.Conn) (net.Conn, *Caller, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fault.New(fault.NotPermitted, "caller is not on a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed == nil {
			groups, failed = peerGroups(fd)
		}
	}); err != nil {
		return nil, nil, err
	}
	if failed != nil {
		return nil, nil, fmt.Errorf("read caller's credentials: %w", failed)
	}
	c, err := a.Admit(cred.Uid, append(groups, cred.Gid))
	if err != nil {
		return nil, nil, err
	}
	c.From = fmt.Sprintf("process %d", cred.Pid)
	return conn, c, nil
}

// Admit decides about a user with all of its groups.
func (a Admission) Admit(uid uint32, gids []uint32) (*Caller, error) {
	member := func(group int) bool { return group >= 0 && slices.Contains(gids, uint32(group)) }
	c := &Caller{UID: uid, GIDs: gids}
	switch {
	case uid == 0 || uid == uint32(os.Geteuid()) || member(a.Admins):
		c.Admin = true
	case !member(a.Tenants):
		return nil, fault.New(fault.NotPermitted, "uid %d is in none of the groups that may call this hostagent", uid)
	}
	return c, nil
}

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// peerGroups reads the supplementary groups that a socket's peer had when it
// connected; /proc would tell those of whoever has its number now.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && size > uint32(4*len(groups)) && size <= 4*maxGroups:
			groups = make([]uint32, size/4)
		case errno != 0:
			return nil, errno
		default:
			return groups[:size/4], nil
		}
	}
}
