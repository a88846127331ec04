package guest

import (
	"context"
	"net"
	"path/filepath"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
)

// channelTimeout bounds how long QEMU may take to let a client in. Its socket
// listens since before it ran, so this is a moment.
const channelTimeout = 5 * time.Second

// Channel connects to the device of the guest's owner's channel. What goes over
// it is between owner and guest. A virtio-serial port has one connection at a
// time; the caller closes it.
func (g *Guest) Channel(ctx context.Context) (net.Conn, error) {
	rec := g.record()
	if s := State(rec.State); g.current() == nil || s != Running && s != Ready {
		return nil, g.notRunning("connected to")
	}
	if !g.channel.CompareAndSwap(false, true) {
		return nil, fault.New(fault.NoChannel, "guest %s: another client is connected, and its virtio-serial port takes one at a time", rec.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, channelTimeout)
	defer cancel()
	conn, err := qemu.DialSocket(ctx, filepath.Join(g.fleet.runDir(rec.Name), channelSocket))
	if err != nil {
		g.channel.Store(false)
		return nil, fault.New(fault.NoChannel, "connect to guest %s: %w", rec.Name, err)
	}
	return &channelConn{Conn: conn, g: g}, nil
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
