package peer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	who, err := Of(conn)
	if err != nil || int(who.Pid) != os.Getpid() || int(who.Uid) != os.Geteuid() || int(who.Gid) != os.Getegid() {
		t.Errorf("the peer is %+v, %v", who, err)
	}
	if err := Trusted(conn); err != nil {
		t.Error(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := Trusted(a); err == nil {
		t.Error("a pipe's peer is trusted")
	}
}

func TestTrusted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		uid uint32
		own int
		ok  bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {^uint32(0), 1000, false}} {
		if err := trusted(c.uid, c.own); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrStranger) {
			t.Errorf("user %d, own %d: %v", c.uid, c.own, err)
		}
	}
}
