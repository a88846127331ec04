package api

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
)

func TestAdmission(t *testing.T) {
	t.Parallel()
	self := uint32(os.Geteuid())
	const admits, refuses = true, false
	for _, c := range []struct {
		name    string
		a       Admission
		uid     uint32
		gids    []uint32
		want    bool
		asAdmin bool
	}{
		{"root", Admission{-1, -1}, 0, nil, admits, true},
		{"own user", Admission{-1, -1}, self, nil, admits, true},
		{"stranger", Admission{-1, -1}, self + 4242, []uint32{7}, refuses, false},
		{"administrator", Admission{7, 8}, self + 4242, []uint32{1, 7}, admits, true},
		{"tenant", Admission{7, 8}, self + 4242, []uint32{1, 8}, admits, false},
		{"both", Admission{7, 8}, self + 4242, []uint32{8, 7}, admits, true},
		{"of other groups", Admission{7, 8}, self + 4242, []uint32{1, 9}, refuses, false},
		{"of group 0", Admission{-1, -1}, self + 4242, []uint32{0, 1<<32 - 1}, refuses, false},
	} {
		got, err := c.a.Admit(c.uid, c.gids)
		if (err == nil) != c.want || err == nil && got.Admin != c.asAdmin {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
	}
}

// dialAs connects as another user: a thread takes on its credentials for good,
// and ends with the goroutine.
func dialAs(t *testing.T, path string, uid, gid int, groups ...uint32) (net.Conn, error) {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		list := append([]uint32{uint32(gid)}, groups...)
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])), 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if e1|e2|e3 != 0 {
			done <- result{nil, errors.Join(e1, e2, e3)}
			return
		}
		conn, err := net.Dial("unix", path)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// Real users over a real socket, with the kernel's word for who they are.
func TestRealUsers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("takes on other users' credentials: needs root")
	}
	n := newNode(t, nil)
	skipWithoutPeerGroups(t, filepath.Join(n.dir, "probe"))
	admission := Admission{Admins: 60007, Tenants: 60008}
	path := filepath.Join(n.dir, "real.sock")
	n.serve(path, admission.Unix)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	as := func(uid, gid int, groups ...uint32) *client.Client {
		t.Helper()
		conn, err := dialAs(t, path, uid, gid, groups...)
		if err != nil {
			t.Fatal(err)
		}
		c := client.New(conn)
		t.Cleanup(func() { c.Close() })
		return c
	}
	carol := as(61001, 60008) // by its first group
	dave := as(61002, 61002, 5, 60008)
	ops := as(61003, 61003, 60007)
	g := n.create(carol, "carols")
	if g.OwnerUid != 61001 {
		t.Errorf("owner %d", g.OwnerUid)
	}
	n.create(dave, "daves")
	for name, c := range map[*client.Client]string{carol: "carols", dave: "daves", ops: "carols daves", n.connect(path): "carols daves"} {
		all, err := name.List(t.Context())
		var names []string
		for _, g := range all {
			names = append(names, g.Name)
		}
		if err != nil || strings.Join(names, " ") != c {
			t.Errorf("sees %v, wants %s (%v)", names, c, err)
		}
	}
	if _, err := dave.Kill(t.Context(), "carols"); code(err) != fault.NoGuest {
		t.Errorf("dave kills carol's guest: %v", err)
	}
	_, err := as(61004, 61004, 60009).List(t.Context())
	if code(err) != fault.NotPermitted || !strings.Contains(err.Error(), "uid 61004 is in none of the groups") {
		t.Errorf("a stranger: %v", err)
	}
	many := make([]uint32, 500) // more than are asked for at first
	for i := range many {
		many[i] = uint32(70000 + i)
	}
	if _, err := as(61005, 61005, append(many, 60008)...).List(t.Context()); err != nil {
		t.Errorf("a member of many groups: %v", err)
	}
}

// skipWithoutPeerGroups skips under qemu-user, which takes SO_PEERGROUPS for one
// number (as of 7.2).
func skipWithoutPeerGroups(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := dialAs(t, path, 0, 0, 5, 6, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, c, err := (Admission{-1, -1}).Unix(t.Context(), conn)
	if err == nil && slices.Equal(c.GIDs, []uint32{0, 5, 6, 7, 0}) {
		return
	}
	if runtime.GOARCH == "s390x" {
		t.Skipf("no SO_PEERGROUPS: %v %v", c, err)
	}
	t.Fatalf("groups of a peer: %+v %v", c, err)
}

// A peer over anything but a unix socket has no credentials and is refused.
func TestHandshakeNeedsCredentials(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := (Admission{-1, -1}).Unix(t.Context(), a); code(err) != fault.NotPermitted {
		t.Errorf("a pipe: %v", err)
	}
}
