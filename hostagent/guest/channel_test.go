package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
)

// The channel's port takes one client at a time, and the next when that is gone.
func TestChannel(t *testing.T) {
	t.Parallel()
	_, g := inRoom(t, newRoom(t, bootsUp), kept(t, stored("g", Stopped, 0)), nil)
	if _, err := g.Channel(t.Context()); fault.As(err).Code != fault.WrongState {
		t.Errorf("a guest that does not run: %v", err)
	}
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	for range 3 {
		c, err := g.Channel(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Channel(t.Context()); fault.As(err).Code != fault.NoChannel {
			t.Errorf("a second client: %v", err)
		}
		buf := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q %v", buf, err)
		}
		c.Close()
		c.Close() // as often as one likes
	}
	c, err := g.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the guest's end: %d %v", n, err)
	}
}

// fakeVsock is a node's vsock: devices that are files, and what answers at an
// address.
type fakeVsock struct {
	missing bool
	deaf    bool // guests' kernels do not speak it

	mu      sync.Mutex
	devices []*os.File // hostagent's copies
	dialed  []uint32
}

func (v *fakeVsock) Open() (*os.File, uint32, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.missing {
		return nil, 0, &os.PathError{Op: "open", Path: qemu.VsockDevice, Err: os.ErrNotExist}
	}
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	v.devices = append(v.devices, f)
	return f, 70000 + uint32(len(v.devices)), nil
}

func (v *fakeVsock) Dial(_ context.Context, cid uint32) (net.Conn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dialed = append(v.dialed, cid)
	if v.deaf {
		return nil, os.ErrDeadlineExceeded
	}
	host, guest := net.Pipe()
	go func() { _, _ = guest.Write([]byte("vsock")); guest.Close() }()
	return host, nil
}

// The channel goes by vsock where the node has it and the guest answers; else by
// the port. The address lives as long as the guest runs, over hostagent's end.
func TestChannelByVsock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		vsock *fakeVsock
		says  string
		cid   uint32
	}{
		"vsock": {&fakeVsock{}, "vsock", 70001}, "guest without": {&fakeVsock{deaf: true}, "hello", 70001},
		"node without": {&fakeVsock{missing: true}, "hello", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, st := newRoom(t, bootsUp), kept(t, stored("g", Stopped, 0))
			with := func(o *Options) { o.Vsock = c.vsock }
			f, g := inRoom(t, r, st, with)
			if err := g.Start(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			becomes(t, g, Ready)
			says := func() {
				t.Helper()
				conn, err := g.Channel(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				go func() { _, _ = conn.Write([]byte("hello")) }()
				buf := make([]byte, 5)
				if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != c.says {
					t.Errorf("%q %v, want %q", buf, err, c.says)
				}
			}
			says()
			f.Close()
			_, g = inRoom(t, r, st, with) // another hostagent
			becomes(t, g, Ready)
			says()
			if got := g.record().CID; got != c.cid {
				t.Errorf("address %d on record, want %d", got, c.cid)
			}
			if err := g.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			becomes(t, g, Stopped)
			if got := g.record().CID; got != 0 {
				t.Errorf("a guest that ended has address %d", got)
			}
			for _, cid := range c.vsock.dialed {
				if cid != c.cid {
					t.Errorf("dialed %d, want %d", cid, c.cid)
				}
			}
			for _, f := range c.vsock.devices { // QEMU's copy alone keeps the address
				if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
					t.Errorf("hostagent holds the device: %v", err)
				}
			}
		})
	}
}
