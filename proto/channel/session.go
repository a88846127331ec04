package channel

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Bounds of sessions.
const (
	stall    = 30 * time.Second // for a session to take what arrived for it; then it ends
	maxStray = 4096             // frames before ACCEPT
)

// Errors of sessions.
var (
	ErrNoAnswer = errors.New("nobody in the guest accepts the channel")
	ErrReplaced = errors.New("session ended: the owner opened another one")
	ErrStalled  = errors.New("session ended: it took no data")
)

// Dial opens a session over a stream, which it closes with the session or when it
// fails. The context bounds the opening alone.
func Dial(ctx context.Context, stream io.ReadWriteCloser) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	c, err := dial(stream)
	if !stop() {
		err = fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
	}
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("open channel: %w", err)
	}
	return c, nil
}

func dial(stream io.ReadWriteCloser) (net.Conn, error) {
	var id [8]byte
	_, _ = rand.Read(id[:])
	c := &dialed{stream: stream, session: max(1, binary.BigEndian.Uint64(id[:])), frames: reader{r: stream}}
	if _, err := stream.Write(Frame{Kind: Open, Session: c.session}.Bytes()); err != nil {
		return nil, err
	}
	for range maxStray {
		f, err := c.frames.next()
		if err != nil {
			return nil, err
		}
		if f.Kind == Accept && f.Session == c.session {
			return c, nil
		}
	}
	return nil, ErrNoAnswer
}

// dialed is the owner's end of a session. It has the stream for itself.
type dialed struct {
	noDeadlines
	stream  io.ReadWriteCloser
	session uint64

	frames reader // of one reader
	rest   []byte

	writing sync.Mutex
	once    sync.Once
}

// Read implements net.Conn.
func (c *dialed) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		f, err := c.frames.next()
		switch {
		case err != nil:
			return 0, err
		case f.Session != c.session: // left over from a session before
		case f.Kind == Close:
			return 0, io.EOF
		case f.Kind == Data:
			c.rest = f.Payload
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (c *dialed) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return writeData(c.stream, c.session, p)
}

// Close implements net.Conn. The guest is told, unless a write is stuck.
func (c *dialed) Close() error {
	var err error
	c.once.Do(func() {
		if c.writing.TryLock() {
			_, _ = c.stream.Write(Frame{Kind: Close, Session: c.session}.Bytes())
			c.writing.Unlock()
		}
		err = c.stream.Close()
	})
	return err
}

func writeData(w io.Writer, session uint64, p []byte) (done int, err error) {
	for len(p) > 0 {
		n := min(len(p), MaxPayload)
		if _, err := w.Write(Frame{Data, session, p[:n]}.Bytes()); err != nil {
			return done, err
		}
		done, p = done+n, p[n:]
	}
	return done, nil
}

// Serve serves sessions over a stream, one at a time, until the stream ends: a
// new one ends the one before. handle owns its session and closes it; Serve does
// not wait for its end.
func Serve(stream io.ReadWriter, handle func(net.Conn)) error {
	s := &server{stream: stream}
	frames := reader{r: stream}
	var current *accepted
	for {
		f, err := frames.next()
		if err != nil {
			current.end(err)
			return err
		}
		mine := current != nil && f.Session == current.session
		switch {
		case f.Kind == Open && !mine:
			current.end(ErrReplaced)
			current = &accepted{server: s, session: f.Session, in: make(chan []byte), done: make(chan struct{})}
			if _, err := s.write(Frame{Kind: Accept, Session: f.Session}.Bytes()); err != nil {
				current.end(err)
				continue
			}
			go handle(current)
		case f.Kind == Data && mine:
			current.deliver(f.Payload)
		case f.Kind == Close && mine:
			current.end(io.EOF)
		}
	}
}

// server is the guest's end of a stream.
type server struct {
	mu     sync.Mutex // held for a whole frame, whose write is bounded by the stream
	stream io.Writer
}

func (s *server) write(frame []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Write(frame)
}

// accepted is the guest's end of a session.
type accepted struct {
	noDeadlines
	server  *server
	session uint64
	in      chan []byte // from the stream's reader
	rest    []byte      // of the session's

	once sync.Once
	why  error
	done chan struct{} // closed at the end, after why
}

// end ends a session: for its user, too.
func (c *accepted) end(why error) {
	if c != nil {
		c.once.Do(func() { c.why = why; close(c.done) })
	}
}

func (c *accepted) deliver(payload []byte) {
	timeout := time.NewTimer(stall)
	defer timeout.Stop()
	select {
	case c.in <- payload:
	case <-c.done:
	case <-timeout.C:
		c.end(ErrStalled)
	}
}

// Read implements net.Conn.
func (c *accepted) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		select {
		case c.rest = <-c.in:
		case <-c.done:
			return 0, c.why
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (c *accepted) Write(p []byte) (done int, err error) {
	return writeData(frameWriter{c}, c.session, p)
}

// frameWriter writes frames while the session goes on.
type frameWriter struct{ c *accepted }

func (w frameWriter) Write(frame []byte) (int, error) {
	select {
	case <-w.c.done:
		return 0, w.c.why
	default:
		return w.c.server.write(frame)
	}
}

// Close implements net.Conn. The owner is told.
func (c *accepted) Close() error {
	select {
	case <-c.done:
		return nil
	default:
	}
	_, err := c.server.write(Frame{Kind: Close, Session: c.session}.Bytes())
	c.end(net.ErrClosed)
	return err
}

// noDeadlines is the part of net.Conn that a session does not have: who uses it
// closes it when its time is over, as tls.Conn.HandshakeContext does.
type noDeadlines struct{}

func (noDeadlines) SetDeadline(time.Time) error      { return nil }
func (noDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (noDeadlines) SetWriteDeadline(time.Time) error { return nil }
func (noDeadlines) LocalAddr() net.Addr              { return address{} }
func (noDeadlines) RemoteAddr() net.Addr             { return address{} }

type address struct{}

func (address) Network() string { return "secexec" }
func (address) String() string  { return PortName }
