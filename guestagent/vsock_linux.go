package main

import (
	"errors"
	"net"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/secexec/secexec/proto/channel"
)

// acceptPause is after an Accept that failed, for want of memory say.
const acceptPause = time.Second

// accept serves connections of one peer, the host, one at a time: a new one ends
// the one before, whose client may have died. Whoever else finds the socket is
// hung up on: a program of the workload's has nothing to do here.
//
// A connection carries the same frames as the port does, so that what is beneath
// TLS is one thing.
func (c *ownersChannel) accept(l *vsock.Listener, peer uint32) {
	var last net.Conn
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
			continue
		}
		if from, ok := conn.RemoteAddr().(*vsock.Addr); !ok || from.ContextID != peer {
			conn.Close()
			continue
		}
		if last != nil {
			last.Close()
		}
		last = conn
		go func() {
			defer conn.Close()
			_ = channel.Serve(&patient{conn}, c.session)
		}()
	}
}

// patient bounds how long the host may take nothing of what is written.
type patient struct{ net.Conn }

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(portPatience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
