package api

import (
	"log/slog"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAdmission(t *testing.T) {
	t.Parallel()
	self := uint32(os.Geteuid())
	for _, c := range []struct {
		name  string
		group int
		cred  unix.Ucred
		more  []int
		want  bool
	}{
		{"root", -1, unix.Ucred{Uid: 0}, nil, true},
		{"own user", -1, unix.Ucred{Uid: self}, nil, true},
		{"stranger", -1, unix.Ucred{Uid: self + 4242, Gid: 7}, []int{7}, false},
		{"member by primary group", 7, unix.Ucred{Uid: self + 4242, Gid: 7}, nil, true},
		{"member", 7, unix.Ucred{Uid: self + 4242, Gid: 8}, []int{1, 7}, true},
		{"of other groups", 7, unix.Ucred{Uid: self + 4242, Gid: 8}, []int{1, 9}, false},
	} {
		if got := (Admission{Group: c.group}).admits(&c.cred, c.more); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A peer over anything but a unix socket has no credentials and is refused.
func TestHandshakeNeedsCredentials(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	admission := Admission{Group: -1, Log: slog.New(slog.DiscardHandler)}
	if _, _, err := admission.Handshake(t.Context(), a); err == nil {
		t.Error("a pipe is admitted")
	}
	if got := groups(int32(os.Getpid())); os.Geteuid() == 0 && got == nil {
		t.Log("this process has no supplementary groups")
	}
}
