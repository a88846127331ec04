package qemu

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/network"
)

// elsewhere opens a new tap interface's queues in a network namespace of its own,
// which the interface keeps alive.
func elsewhere(t *testing.T, flags uint16, names ...string) (files []*os.File) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		for _, name := range names {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				done <- err
				return
			}
			files = append(files, os.NewFile(uintptr(fd), name))
			request, err := unix.NewIfreq(name)
			if err == nil {
				request.SetUint16(flags)
				err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	err := <-done
	t.Cleanup(func() { Close(files) })
	if err != nil {
		t.Skip("no tap interface in a network namespace of its own: ", err)
	}
	return files
}

// hand listens like a program that hands over, once.
func hand(t *testing.T, serve func(c *net.UnixConn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hand") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "tap.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if c, err := l.AcceptUnix(); err == nil {
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	return path
}

func rights(files ...*os.File) []byte {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	return unix.UnixRights(fds...)
}

const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

func TestTakeTap(t *testing.T) {
	t.Parallel()
	one := elsewhere(t, tapFlags, "tap0")
	two := elsewhere(t, tapFlags|unix.IFF_MULTI_QUEUE, "tap0", "tap0")
	others := elsewhere(t, tapFlags|unix.IFF_MULTI_QUEUE, "tap0", "tap1")
	bare := elsewhere(t, unix.IFF_TAP|unix.IFF_NO_PI, "tap0")
	tun := elsewhere(t, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_VNET_HDR, "tun0")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	many := make([]*os.File, MaxNetQueues+1)
	for i := range many {
		many[i] = one[0]
	}
	unattached, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer unattached.Close()
	for _, c := range []struct {
		name        string
		queues      int
		description []byte
		files       []*os.File
		words       string // of the error; "": none
	}{
		{"one queue", 0, []byte("of a network"), one, ""},
		{"two queues", 2, []byte("of a network"), two, ""},
		{"largest description", 1, make([]byte, network.MaxSize), one, ""},
		{"too large a description", 1, make([]byte, network.MaxSize+1), one, "description of 4097 bytes"},
		{"enormous description", 1, make([]byte, 64<<10), one, "description"},
		{"no descriptor", 1, []byte("x"), nil, "0 descriptors came for 1 queues"},
		{"too few queues", 2, []byte("x"), one, "1 descriptors came for 2 queues"},
		{"too many queues", 1, []byte("x"), two, "2 descriptors came for 1 queues"},
		{"too many descriptors", 1, []byte("x"), many, "descriptors"},
		{"queues of two interfaces", 2, []byte("x"), others, "one interface"},
		{"one queue twice", 2, []byte("x"), []*os.File{one[0], one[0]}, "flags"},
		{"tap without header", 1, []byte("x"), bare, "flags"},
		{"tun", 1, []byte("x"), tun, "flags"},
		{"other device", 1, []byte("x"), []*os.File{null}, "no tap interface"},
		{"no interface", 1, []byte("x"), []*os.File{unattached}, "no tap interface"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := hand(t, func(conn *net.UnixConn) {
				var control []byte
				if c.files != nil {
					control = rights(c.files...)
				}
				conn.WriteMsgUnix(c.description, control, nil)
			})
			files, description, err := TakeTap(t.Context(), path, c.queues)
			defer Close(files)
			if c.words != "" {
				if !errors.Is(err, ErrTap) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), path) || files != nil {
					t.Errorf("%d files, %v; want %q", len(files), err, c.words)
				}
				return
			}
			if err != nil || len(files) != max(c.queues, 1) || !bytes.Equal(description, c.description) {
				t.Errorf("%d files, %d bytes, %v", len(files), len(description), err)
			}
		})
	}
}

func TestTakeTapFromNobody(t *testing.T) {
	t.Parallel()
	gone := filepath.Join(t.TempDir(), "s")
	for name, c := range map[string]struct{ path, words string }{
		"no socket":  {gone, "must run"},
		"hangs up":   {hand(t, func(*net.UnixConn) {}), "EOF"},
		"no message": {hand(t, func(c *net.UnixConn) { time.Sleep(300 * time.Millisecond) }), ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		files, _, err := TakeTap(ctx, c.path, 1)
		cancel()
		if !errors.Is(err, ErrTap) || !strings.Contains(err.Error(), c.words) || files != nil {
			t.Errorf("%s: %d files, %v", name, len(files), err)
		}
	}
}

// A QEMU that is handed a description keeps it, whatever becomes of hostagent.
func TestPremiseDescription(t *testing.T) {
	t.Parallel()
	tap := elsewhere(t, tapFlags, "tap0")
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	c.Nets = []Net{{MAC: "52:54:00:12:34:56", Socket: hand(t, func(conn *net.UnixConn) {
		conn.WriteMsgUnix([]byte("of a network"), rights(tap...), nil)
	})}}
	files, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = files
	words := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = words, words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	Close(files)
	ctx, ended := context.WithTimeout(t.Context(), 30*time.Second)
	waited := make(chan struct{})
	go func() { defer close(waited); cmd.Wait(); ended() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-waited })
	m, err := Dial(ctx, c.QMPSocket)
	if err != nil {
		cmd.Process.Kill()
		<-waited
		t.Fatalf("%v\n%s", err, words)
	}
	defer m.Close()
	var all []struct {
		Label    string `json:"label"`
		Filename string `json:"filename"`
	}
	if err := m.Execute(t.Context(), "query-chardev", nil, &all); err != nil {
		t.Fatal(err)
	}
	for _, dev := range all {
		if dev.Label == "network" && !strings.HasPrefix(dev.Filename, "disconnected") {
			return
		}
	}
	t.Errorf("no connection with a description: %+v", all)
}
