package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
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

	mu   sync.Mutex
	conn net.Conn // nil while not connected
	off  bool     // the guest is to power off: said again after each connect
}

func newPort(log *slog.Logger) *port {
	return &port{log: log, messages: make(chan readiness.Message, portBacklog)}
}

// run connects and reads until the context ends. Its goroutine belongs to the
// guest's life.
func (p *port) run(ctx context.Context, socket string) {
	pause := portPatience
	for ctx.Err() == nil {
		conn, err := qemu.DialSocket(ctx, socket)
		if err != nil {
			return // only the context's end
		}
		p.set(conn)
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		// The agent answers with all that was said before anybody listened.
		_ = p.send(readiness.Ping{Token: "01"})
		if p.mustPowerOff() {
			_ = p.send(readiness.PowerOff{})
		}
		if p.read(ctx, conn) {
			pause = portPatience
		}
		stop()
		p.set(nil)
		conn.Close()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, portPause)
		}
	}
}

// connected tells whether the guest may still say something.
func (p *port) connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

func (p *port) set(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
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

// read hands on messages until the connection ends, and tells whether there
// were any.
func (p *port) read(ctx context.Context, conn net.Conn) (any bool) {
	var lines readiness.Lines
	buf := make([]byte, 512)
	window, got := time.Now(), 0
	var said time.Time
	var bad uint64 // lines that are no message, not told yet
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return any
		}
		lines.Feed(buf[:n], func(line string) {
			m, err := readiness.ParseGuest(line)
			if err != nil {
				bad++
				return
			}
			any = true
			select {
			case p.messages <- m:
			default:
			}
		})
		if bad += lines.Dropped; bad > 0 && time.Since(said) > portComplain {
			p.log.Warn("readiness port: lines that are no message", "count", bad)
			said, bad = time.Now(), 0
		}
		lines.Dropped = 0
		if got += n; got >= portRate {
			select {
			case <-time.After(time.Until(window.Add(time.Second))):
			case <-ctx.Done():
				return any
			}
			window, got = time.Now(), 0
		}
	}
}

// send writes one line, within portWrite.
func (p *port) send(m readiness.Message) error {
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
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
