package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/peer"
)

// Offer is a unix socket where hostagent takes over a pod's tap interface, each
// time that it starts the guest: a hostagentv1.Network of kind handed.
type Offer struct {
	listener *net.UnixListener
	ended    chan struct{}
}

// Offer listens at a path, of at most 107 bytes in a folder that is only root's,
// and hands over the tap interface with the description, as docs/protocol.md
// says, until Close. failed hears why an asker got nothing; it may be nil.
func (p *Pod) Offer(path string, failed func(error)) (*Offer, error) {
	description, err := p.Description.Marshal()
	if err != nil {
		return nil, fmt.Errorf("offer pod's network: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // a dead shim's
		return nil, fmt.Errorf("offer pod's network: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		return nil, fmt.Errorf("offer pod's network: %w", err)
	}
	o := &Offer{listener: l, ended: make(chan struct{})}
	go func() {
		defer close(o.ended)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			if err := hand(conn, p.NetNS, description); err != nil && failed != nil {
				failed(fmt.Errorf("hand over pod's network %s: %w", p.NetNS, err))
			}
			conn.Close()
		}
	}()
	return o, nil
}

// Close ends the offer and removes the socket. A guest that runs keeps its network.
func (o *Offer) Close() error {
	err := o.listener.Close()
	<-o.ended
	return err
}

// hand sends one message: the description, with the tap interface's queue. Who
// asks must be root or this process's user.
func hand(conn *net.UnixConn, netns string, description []byte) error {
	if err := peer.Trusted(conn); err != nil {
		return fmt.Errorf("who connects: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var tap *os.File
	err := within(ctx, netns, func(h *netlink.Handle) (err error) {
		if _, err := h.LinkByName(Tap); err != nil {
			return fmt.Errorf("find %s: %w", Tap, err)
		}
		tap, err = attachTap()
		return err
	})
	if err != nil {
		return err
	}
	defer tap.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(description, unix.UnixRights(int(tap.Fd())), nil)
	return err
}
