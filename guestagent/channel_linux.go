package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"

	"github.com/secexec/secexec/proto/channel"
	"github.com/secexec/secexec/proto/guestagent/v1"
	"github.com/secexec/secexec/sealed"
)

// handshakePatience bounds how long a session may take to say who it is.
const handshakePatience = time.Minute

// ownersChannel serves the owner. It begins at once, before the root's init
// runs: a workload may wait for secrets.
type ownersChannel struct {
	tls    *tls.Config
	server *ttrpc.Server
}

// serveOwner begins to serve the channel, where the host gives one.
func (a *agent) serveOwner(h *sealed.Handoff, key ed25519.PrivateKey) error {
	s := &service{
		plan: h.Channel, agent: a.Status, uptime: millis, write: secretsDir(secretsFD).write,
		spawn: (&spawner{cgroup: cgroupFD}).spawn,
	}
	if h.StopSignal == 0 {
		s.tell = tell
	}
	c, err := newChannel(h, key, s)
	if err != nil {
		return err
	}
	a.owner = s.memory
	p, err := newChannelPort(channelFD)
	if err != nil {
		return err
	}
	go func() { _ = c.serve(p) }()
	socket := os.NewFile(vsockFD, "vsock")
	if l, err := vsock.FileListener(socket); err == nil { // else the guest has none
		go c.accept(l, vsock.Host)
	}
	return socket.Close()
}

// newChannel prepares the channel with this boot's key.
func newChannel(h *sealed.Handoff, key ed25519.PrivateKey, s *service) (*ownersChannel, error) {
	config, err := channel.ServerTLS(key, h.Channel.Clients)
	if err != nil {
		return nil, err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, fmt.Errorf("serve channel: %w", err)
	}
	log.L.Logger.SetOutput(io.Discard) // ttrpc's: the console is the host's to read
	s.memory = newMemory(h)
	guestagentv1.RegisterGuestagentService(server, s)
	return &ownersChannel{tls: config, server: server}, nil
}

// serve serves a port until it is unplugged.
func (c *ownersChannel) serve(stream io.ReadWriter) error {
	for {
		if err := channel.Serve(stream, c.session); !errors.Is(err, io.EOF) {
			return fmt.Errorf("serve channel: %w", err)
		}
	}
}

// session serves whoever proves to have one of the sealed keys.
func (c *ownersChannel) session(conn net.Conn) {
	secure := tls.Server(conn, c.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakePatience)
	defer cancel()
	if secure.HandshakeContext(ctx) != nil {
		conn.Close()
		return
	}
	// The server takes the one connection and is back at once.
	_ = c.server.Serve(context.Background(), &once{conn: &served{secure}})
}

// served is a session as ttrpc's server sees it, which would keep one open at
// any error but io.EOF.
type served struct{ net.Conn }

// Read implements net.Conn.
func (s *served) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.Close()
		err = io.EOF
	}
	return n, err
}

// once is a listener with one connection.
type once struct{ conn net.Conn }

// Accept returns the connection, and then io.EOF, which ends ttrpc's Serve and
// not the connection.
func (o *once) Accept() (net.Conn, error) {
	conn := o.conn
	if o.conn = nil; conn == nil {
		return nil, io.EOF
	}
	return conn, nil
}

// Close implements net.Listener.
func (o *once) Close() error { return nil }

// Addr implements net.Listener.
func (o *once) Addr() net.Addr { return nil }
