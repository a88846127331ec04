package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/channel"
	"github.com/secexec/secexec/proto/guestagent/v1"
)

// loopback listens as guestinit does, on any port, and returns how to connect to
// it from this machine.
func loopback(t *testing.T) (*vsock.Listener, func() (net.Conn, error)) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Skipf("this kernel has no vsock: %v", err)
	}
	socket := os.NewFile(uintptr(fd), "vsock")
	defer socket.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}), unix.Listen(fd, 4)); err != nil {
		t.Skipf("no vsock here: %v", err)
	}
	l, err := vsock.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	port := l.Addr().(*vsock.Addr).Port
	connect := func() (net.Conn, error) { return vsock.Dial(vsock.Local, port, nil) }
	probe, err := connect()
	if err != nil {
		t.Skipf("vsock does not lead back to this machine: %v: load the kernel module vsock_loopback", err)
	}
	_ = probe.Close()
	if conn, err := l.Accept(); err == nil {
		conn.Close()
	}
	return l, connect
}

// The owner's calls over vsock, one connection at a time.
func TestVsock(t *testing.T) {
	t.Parallel()
	l, connect := loopback(t)
	a, _ := newAgentUnderTest(t, false, false)
	go a.channel.accept(l, vsock.Local)
	client := func() (*ttrpc.Client, net.Conn) {
		t.Helper()
		conn, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		session, err := channel.Dial(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		config, err := channel.ClientTLS(seed(2), seed(1).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		c := ttrpc.NewClient(tls.Client(session, config))
		t.Cleanup(func() { c.Close() })
		return c, conn
	}
	first, conn := client()
	big := make([]byte, maxSecret)
	for name, content := range map[string][]byte{"a": []byte("one"), "b": big} {
		if _, err := guestagentv1.NewGuestagentClient(first).DeliverSecret(t.Context(), &guestagentv1.DeliverSecretRequest{Name: name, Content: content}); err != nil {
			t.Fatal(err)
		}
	}
	if a.files["a"] != "one" || a.files["b"] != string(big) {
		t.Errorf("delivered %d files", len(a.files))
	}
	// A client that died holds up nobody, and its connection ends.
	second, _ := client()
	if _, err := guestagentv1.NewGuestagentClient(second).Status(t.Context(), &guestagentv1.StatusRequest{}); err != nil {
		t.Error(err)
	}
	ended(t, conn)
}

// Who is not the host is hung up on, before anything is read.
func TestVsockIsForTheHost(t *testing.T) {
	t.Parallel()
	l, connect := loopback(t)
	a, _ := newAgentUnderTest(t, false, false)
	go a.channel.accept(l, vsock.Host)
	conn, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended(t, conn)
}

// ended wants a connection to be closed by its other end, whatever came before.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		_, err := conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Error("the connection goes on")
			return
		case err != nil:
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				t.Logf("it ended with %v", err)
			}
			return
		}
	}
}
