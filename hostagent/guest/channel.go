package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
)

// Bounds of connecting. QEMU's socket listens since before it ran; a guest that
// serves vsock answers at once, and one that knows no vsock never does.
const (
	channelTimeout = 5 * time.Second
	vsockTimeout   = 2 * time.Second
)

// openVsock gives the guest a vsock device where the node can. Without one, or
// with an image whose kernel has no driver, its virtio-serial port serves.
func (l *life) openVsock(cfg *qemu.Config) {
	f := l.g.fleet
	if f.Vsock == nil {
		return
	}
	device, cid, err := f.Vsock.Open()
	switch {
	case err == nil:
		cfg.Vhost, cfg.CID = device, cid
	case !errors.Is(err, os.ErrNotExist): // the node check tells of that
		f.Log.Warn("guest gets no vsock device", "guest", cfg.Name, "error", err)
	}
}

// Channel connects to the device of the guest's owner's channel: vsock, or the
// virtio-serial port. What goes over it is between owner and guest. One client is
// connected at a time; the caller closes the connection.
func (g *Guest) Channel(ctx context.Context) (net.Conn, error) {
	rec := g.record()
	if s := State(rec.State); g.current() == nil || s != Running && s != Ready {
		return nil, g.notRunning("connected to")
	}
	if !g.channel.CompareAndSwap(false, true) {
		return nil, fault.New(fault.NoChannel, "guest %s: another client is connected, and its channel takes one at a time", rec.Name)
	}
	conn, err := g.dial(ctx, rec.Name, rec.CID)
	if err != nil {
		g.channel.Store(false)
		return nil, fault.New(fault.NoChannel, "connect to guest %s: %w", rec.Name, err)
	}
	return &channelConn{Conn: conn, g: g}, nil
}

func (g *Guest) dial(ctx context.Context, name string, cid uint32) (net.Conn, error) {
	if g.fleet.Vsock != nil && cid != 0 {
		ctx, cancel := context.WithTimeout(ctx, vsockTimeout)
		defer cancel()
		if conn, err := g.fleet.Vsock.Dial(ctx, cid); err == nil {
			return conn, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, channelTimeout)
	defer cancel()
	return qemu.DialSocket(ctx, filepath.Join(g.fleet.runDir(name), channelSocket))
}

// channelConn lets the next client in when it is closed, once.
type channelConn struct {
	net.Conn
	g *Guest
}

// Close implements net.Conn.
func (c *channelConn) Close() error {
	err := c.Conn.Close()
	if g := c.g; g != nil {
		c.g = nil
		g.channel.Store(false)
	}
	return err
}
