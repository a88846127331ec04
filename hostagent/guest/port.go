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
	portRate     = 256 << 10             // bytes read per second
	portWrite    = 2 * time.Second       // for one line
	portPatience = 50 * time.Millisecond // before connecting again, at first
	portPause    = 5 * time.Second       // and at most
	portComplain = time.Minute           // between log lines about what a guest sends
)

var errNotConnected = errors.New("readiness port is not connected")

// port is the host's end of a readiness port. It connects again whenever the
// connection ends, until its context does.
type port struct {
	messages chan readiness.Message
	log      *slog.Logger

	mu     sync.Mutex
	conn   net.Conn    // nil while not connected
	stop   func() bool // lets the context's end leave conn alone
	off    bool        // the guest is to power off: said again after each connect
	parked *wake.Call  // of the reader, which waits

	// Of the reader: one goroutine at a time, none while the guest says nothing.
	lines  readiness.Lines
	pause  time.Duration // before connecting again
	window time.Time     // since when got counts
	got    int           // bytes
	said   time.Time     // when it complained last
	bad    uint64        // lines that are no message, not told yet
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
	p.conn, p.lines = conn, readiness.Lines{}
	p.stop = context.AfterFunc(ctx, func() { p.drop(conn) })
	p.mu.Unlock()
	p.window, p.got = time.Now(), 0
	// The agent answers with all that was said before anybody listened.
	_ = p.send(readiness.Ping{Token: "01"})
	if p.mustPowerOff() {
		_ = p.send(readiness.PowerOff{})
	}
	return conn
}

// drop ends a connection. A reader that is not waiting notices by itself.
func (p *port) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == conn {
		p.conn = nil
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
	p.mu.Lock()
	p.off = true
	p.mu.Unlock()
	if err := p.send(readiness.PowerOff{}); err != nil {
		p.log.Warn("guest is asked to power off later", "error", err)
	}
}

func (p *port) mustPowerOff() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}

// read hands on what the guest says next. It tells whether the connection goes on.
func (p *port) read(ctx context.Context, conn net.Conn) bool {
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		return false
	}
	p.lines.Feed(buf[:n], func(line string) {
		m, err := readiness.ParseGuest(line)
		if err != nil {
			p.bad++
			return
		}
		p.pause = portPatience
		select {
		case p.messages <- m:
		default:
		}
	})
	p.bad += p.lines.Dropped
	p.lines.Dropped = 0
	if p.bad > 0 && time.Since(p.said) > portComplain {
		p.log.Warn("readiness port: lines that are no message", "count", p.bad)
		p.said, p.bad = time.Now(), 0
	}
	if p.got += n; p.got >= portRate {
		select {
		case <-time.After(time.Until(p.window.Add(time.Second))):
		case <-ctx.Done():
			return false
		}
		p.window, p.got = time.Now(), 0
	}
	return true
}

// send writes one line, within portWrite.
func (p *port) send(m readiness.Message) error {
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
	return nil
}
