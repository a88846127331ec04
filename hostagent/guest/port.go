package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/wake"
	"github.com/secexec/secexec/proto/readiness"
)

// Bounds of the readiness port. Whatever the guest does, hostagent holds one
// line and a few messages of it and spends little time on it.
const (
	portBacklog  = 32                    // messages not handled yet; more are dropped
	portWrite    = 2 * time.Second       // for one line
	portPatience = 50 * time.Millisecond // before connecting again, at first
	portPause    = 5 * time.Second       // and at most
	portComplain = time.Minute           // between log lines about what a guest sends
)

var errNotConnected = errors.New("readiness port is not connected")

// port carries the host's end of the readiness protocol, readiness.Host. It
// connects again whenever the connection ends, until its context does.
type port struct {
	messages chan readiness.Message
	log      *slog.Logger

	mu     sync.Mutex
	host   readiness.Host
	conn   net.Conn    // nil while not connected
	stop   func() bool // lets the context's end leave conn alone
	parked *wake.Call  // of the reader, which waits

	// Of the reader: one goroutine at a time, none while the guest says nothing.
	pause time.Duration // before connecting again
	said  time.Time     // when it complained last
	bad   uint64        // lines that are no message, not told yet
}

func newPort(log *slog.Logger) *port {
	return &port{log: log, messages: make(chan readiness.Message, portBacklog), pause: portPatience}
}

// run connects and reads until the context ends, which may be long after it
// returned: it goes on when the guest says something.
func (p *port) run(ctx context.Context, socket string) {
	for {
		conn, goesOn := p.connection(), true
		if conn != nil {
			goesOn = p.read(ctx, conn)
		} else if conn = p.connect(ctx, socket); conn == nil {
			return // only the context's end
		}
		if goesOn {
			if p.park(conn, func() { p.run(ctx, socket) }) {
				return
			}
			continue
		}
		p.drop(conn)
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.pause):
			p.pause = min(2*p.pause, portPause)
		}
	}
}

// connect waits for the port and greets the guest. It returns nil when the context
// ends.
func (p *port) connect(ctx context.Context, socket string) net.Conn {
	conn, err := qemu.DialSocket(ctx, socket)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	p.conn = conn
	p.stop = context.AfterFunc(ctx, func() { p.drop(conn) })
	first := p.host.Connected()
	p.mu.Unlock()
	_ = p.write(first)
	return conn
}

// drop ends a connection. A reader that is not waiting notices by itself.
func (p *port) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == conn {
		p.conn = nil
		p.host.Lost()
		p.stop()
		if p.parked != nil {
			p.parked.Cancel()
		}
	}
	conn.Close()
}

// park lets the reader go on in another goroutine when there is something to
// read. It tells whether this one may end.
func (p *port) park(conn net.Conn, read func()) bool {
	raw, err := conn.(syscall.Conn).SyscallConn() // a unix socket
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != conn { // dropped
		return false
	}
	p.parked, err = wake.Readable(raw, read)
	return err == nil
}

// connection is nil while the guest can say nothing.
func (p *port) connection() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// powerOff asks the guest to power off, now and after each later connect: a
// connection just lost must not lose the request.
func (p *port) powerOff() {
	if err := p.say((*readiness.Host).PowerOff); err != nil {
		p.log.Warn("guest is asked to power off later", "error", err)
	}
}

// ask asks the guest for a report over a nonce, now or after the next connect, up
// to forget.
func (p *port) ask(nonce [readiness.NonceSize]byte) {
	err := p.say(func(h *readiness.Host) []readiness.Message { return h.Ask(nonce) })
	if err != nil {
		p.log.Warn("guest is challenged later", "error", err)
	}
}

func (p *port) forget() {
	_ = p.say(func(h *readiness.Host) []readiness.Message { h.Forget(); return nil })
}

// say writes what the host's end wants said.
func (p *port) say(event func(*readiness.Host) []readiness.Message) error {
	p.mu.Lock()
	messages := event(&p.host)
	p.mu.Unlock()
	return p.write(messages)
}

// read hands on what the guest says next. It tells whether the connection goes on.
func (p *port) read(ctx context.Context, conn net.Conn) bool {
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		return false
	}
	p.mu.Lock()
	told := p.host.Read(buf[:n])
	p.bad += p.host.Bad()
	wait := p.host.Pause(time.Now())
	p.mu.Unlock()
	for _, m := range told {
		p.pause = portPatience
		select {
		case p.messages <- m:
		default:
		}
	}
	if p.bad > 0 && time.Since(p.said) > portComplain {
		p.log.Warn("readiness port: lines that are no message", "count", p.bad)
		p.said, p.bad = time.Now(), 0
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// write writes lines, each within portWrite.
func (p *port) write(messages []readiness.Message) error {
	for _, m := range messages {
		conn := p.connection()
		if conn == nil {
			return errNotConnected
		}
		if err := conn.SetWriteDeadline(time.Now().Add(portWrite)); err != nil {
			return fmt.Errorf("write readiness port: %w", err)
		}
		if _, err := conn.Write(append([]byte(m.String()), '\n')); err != nil {
			return fmt.Errorf("write readiness port: %w", err)
		}
	}
	return nil
}
