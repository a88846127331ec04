package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
)

// Bounds of a connection.
const (
	maxCalls       = 32               // in flight
	maxStreams     = 16               // of those
	maxRequest     = 64 << 10         // bytes of a tenant's frame; an administrator's may have ttrpc's maximum
	maxTotalCalls  = 1 << 20          // over the life of a connection
	frameTimeout   = 30 * time.Second // for a whole frame, once it has begun, to arrive or to be taken
	readBufferSize = 512
)

// errProtocol says that a client breaks ttrpc's rules.
var errProtocol = errors.New("client breaks the protocol")

// guard is a client's connection as ttrpc's server sees it. The server trusts
// its clients: it takes up to 4 MiB for a header's promise, begins as many calls
// as it is sent, keeps a connection that it can't read from, and falls over a
// data frame for a call that has no stream (as of 1.2.10 a nil stream handler is
// used). So a guard hands it whole frames
// only, in order, for known calls, no more than may be in flight, and answers
// what it refuses itself.
//
// One goroutine reads, several write.
type guard struct {
	net.Conn
	caller *Caller
	done   func() // once, after Close

	in      *bufio.Reader
	ready   []byte // of an admitted frame, for Read
	highest uint32 // stream of the last request
	calls   int
	timeout time.Duration

	mu      sync.Mutex // held during a write of one whole frame
	out     []byte     // beginning of a frame that the server writes in pieces
	open    map[uint32]call
	streams int
	once    sync.Once
}

// call is what a guard knows of a call in flight.
type call struct{ streams, takesData bool }

func newGuard(conn net.Conn, c *Caller, done func()) *guard {
	return &guard{Conn: conn, caller: c, done: done, in: bufio.NewReaderSize(conn, readBufferSize), open: make(map[uint32]call), timeout: frameTimeout}
}

// Close implements net.Conn.
func (g *guard) Close() error {
	err := g.Conn.Close()
	g.once.Do(g.done)
	return err
}

// await waits for the first byte of the next frame.
func (g *guard) await(timeout time.Duration) error {
	if err := g.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := g.in.Peek(1); err != nil {
		return err
	}
	return g.SetReadDeadline(time.Time{})
}

// Read implements net.Conn: the bytes of frames that passed. Every error ends
// the connection and is io.EOF to the server, which would keep it open at others.
func (g *guard) Read(p []byte) (int, error) {
	for len(g.ready) == 0 {
		if err := g.next(); err != nil {
			g.Conn.Close()
			return 0, io.EOF
		}
	}
	n := copy(p, g.ready)
	if g.ready = g.ready[n:]; len(g.ready) == 0 {
		g.ready = nil
	}
	return n, nil
}

// next reads a frame; one that passes is ready then.
func (g *guard) next() error {
	h, payload, err := g.readFrame()
	if err != nil {
		return err
	}
	switch h.kind {
	case typeRequest:
		if h.stream%2 != 1 || h.stream <= g.highest {
			return fmt.Errorf("%w: stream %d after %d", errProtocol, h.stream, g.highest)
		}
		g.highest = h.stream
		if g.calls++; g.calls > maxTotalCalls {
			return fmt.Errorf("%w: more than %d calls over one connection", errProtocol, maxTotalCalls)
		}
		if err := g.begin(h, payload); err != nil {
			return g.write(answer(h.stream, err))
		}
	case typeData:
		if h.stream > g.highest || h.stream%2 != 1 {
			return fmt.Errorf("%w: data for stream %d, which was not opened", errProtocol, h.stream)
		}
		g.mu.Lock()
		c, open := g.open[h.stream]
		g.mu.Unlock()
		switch {
		case !open: // its last word and the call's end have crossed
			return nil
		case !c.takesData:
			return fmt.Errorf("%w: data for a call that takes none", errProtocol)
		case payload == nil && h.length > 0:
			return fmt.Errorf("%w: data of %d bytes", errProtocol, h.length)
		}
	default: // a later version's: ttrpc passes over it too
		return nil
	}
	g.ready = append(h.append(make([]byte, 0, headerSize+len(payload))), payload...)
	return nil
}

// readFrame reads a frame. A payload beyond the caller's bound is passed over
// and comes as nil. Memory grows with what arrives, not with what is promised.
func (g *guard) readFrame() (header, []byte, error) {
	if _, err := g.in.Peek(1); err != nil { // idle for as long as it likes
		return header{}, nil, err
	}
	if err := g.SetReadDeadline(time.Now().Add(g.timeout)); err != nil {
		return header{}, nil, err
	}
	var b [headerSize]byte
	if _, err := io.ReadFull(g.in, b[:]); err != nil {
		return header{}, nil, err
	}
	h := parseHeader(b[:])
	if h.length > maxFrame {
		return h, nil, fmt.Errorf("%w: frame of %d bytes", errProtocol, h.length)
	}
	var payload bytes.Buffer
	to := io.Writer(&payload)
	if h.length > g.limit() {
		to = io.Discard
	}
	if _, err := io.CopyN(to, g.in, int64(h.length)); err != nil {
		return h, nil, err
	}
	return h, payload.Bytes(), g.SetReadDeadline(time.Time{})
}

func (g *guard) limit() uint32 {
	if g.caller.Admin {
		return maxFrame
	}
	return maxRequest
}

// begin lets a call in.
func (g *guard) begin(h header, payload []byte) error {
	if h.length > g.limit() {
		return fault.New(fault.Limit, "request of %d bytes, at most %d", h.length, g.limit())
	}
	service, method, err := parseRequest(payload)
	if err != nil {
		return fault.New(fault.BadRequest, "%w", err)
	}
	m, err := lookUp(g.caller, service, method)
	if err != nil {
		return err
	}
	c := call{streams: m.IsStreamingClient() || m.IsStreamingServer(), takesData: m.IsStreamingClient()}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open) >= maxCalls {
		return fault.New(fault.Limit, "%d calls are under way on this connection, at most %d", len(g.open), maxCalls)
	}
	if c.streams && g.streams >= maxStreams {
		return fault.New(fault.Limit, "%d streams are open on this connection, at most %d", g.streams, maxStreams)
	}
	if c.streams {
		g.streams++
	}
	g.open[h.stream] = c
	return nil
}

// Write implements net.Conn. The server writes a large frame in pieces; the
// client is sent whole ones, so that a guard's own answers fall between them.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := p
	if len(g.out) > 0 {
		g.out = append(g.out, p...)
		rest = g.out
	}
	for len(rest) >= headerSize {
		h := parseHeader(rest)
		size := headerSize + int(h.length)
		if len(rest) < size {
			break
		}
		if err := g.writeLocked(rest[:size]); err != nil {
			return 0, err
		}
		if c, ok := g.open[h.stream]; ok && h.last() {
			delete(g.open, h.stream)
			if c.streams {
				g.streams--
			}
		}
		rest = rest[size:]
	}
	if len(rest) == 0 {
		g.out = nil
	} else {
		g.out = append([]byte(nil), rest...)
	}
	return len(p), nil
}

// write sends a guard's own frame.
func (g *guard) write(frame []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writeLocked(frame)
}

// writeLocked sends a frame, or ends the connection of a client that does not
// take it.
func (g *guard) writeLocked(frame []byte) error {
	err := g.SetWriteDeadline(time.Now().Add(g.timeout))
	if err == nil {
		_, err = g.Conn.Write(frame)
	}
	if err != nil {
		g.Conn.Close() // its reader ends too
	}
	return err
}
