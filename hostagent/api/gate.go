package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/journal"
)

// Bounds of connections.
const (
	maxConns        = 1024             // of all tenants
	maxUserConns    = 64               // of a user
	maxHellos       = 128              // of a listener whose peers have not said who they are
	maxFarewells    = 16               // whose peers are being told why they can't stay
	helloTimeout    = 10 * time.Second // for TLS, and to be told why not
	firstTimeout    = 30 * time.Second // for the first call
	farewellTimeout = time.Second      // for a client to take an answer and go
	complaintPause  = time.Second      // between two lines of the log about callers turned away
	acceptPause     = 100 * time.Millisecond
)

// Admit decides who is on a new connection. It may wait for the peer until the
// context ends. The connection to go on with comes beside a *fault.Error too,
// which is told to the peer; nil then is the one that was given.
type Admit func(ctx context.Context, conn net.Conn) (net.Conn, *Caller, error)

// Gate lets callers in to a ttrpc server: it finds out who they are, bounds what
// they take up, and gives the context of each call its caller (CallerOf).
type Gate struct {
	server    *ttrpc.Server
	log       *slog.Logger
	farewells chan struct{} // sent: a peer is being told why it can't stay
	hello     time.Duration // helloTimeout, firstTimeout and frameTimeout
	first     time.Duration
	frame     time.Duration

	mu        sync.Mutex
	conns     map[*guard]struct{}
	users     map[uint32]int // connections of each
	tenants   int            // connections of all tenants
	complaint time.Time      // the last one
	hushed    int            // complaints since
}

// NewGate stands before a server, with which no other may serve.
func NewGate(server *ttrpc.Server, l *slog.Logger) *Gate {
	// ttrpc writes a line on standard error for whatever a client does wrong.
	log.L.Logger.SetOutput(io.Discard)
	return &Gate{
		server: server, log: l, farewells: make(chan struct{}, maxFarewells),
		hello: helloTimeout, first: firstTimeout, frame: frameTimeout,
		conns: make(map[*guard]struct{}), users: make(map[uint32]int),
	}
}

// Serve lets callers in until the context ends, and then ends their connections.
// It may be called for several listeners, which it closes.
func (g *Gate) Serve(ctx context.Context, l net.Listener, admit Admit) error {
	hellos := make(chan struct{}, maxHellos)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer wg.Wait()
	defer g.closeAll()
	defer l.Close()
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ECONNABORTED):
			continue
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			g.complain("connection not taken", "error", err)
			time.Sleep(acceptPause)
			continue
		default:
			return err
		}
		select {
		case hellos <- struct{}{}:
			wg.Go(func() { g.welcome(ctx, conn, admit, func() { <-hellos }) })
		default:
			conn.Close()
			g.complain("connection not taken: too many peers have not said who they are")
		}
	}
}

// welcome takes a connection from its beginning to its first call. It calls
// known once it knows whose the connection is.
func (g *Gate) welcome(ctx context.Context, conn net.Conn, admit Admit, known func()) {
	hello, cancel := context.WithTimeout(ctx, g.hello)
	admitted, caller, err := admit(hello, conn)
	cancel()
	known()
	if err != nil {
		g.complain("caller turned away", journal.TurnedAway, "error", err)
		if admitted != nil {
			conn = admitted
		}
		g.turnAway(ctx, conn, err)
		return
	}
	guard := newGuard(admitted, caller, nil)
	guard.done, guard.timeout = func() { g.leave(guard) }, g.frame
	if err := g.enter(guard); err != nil {
		g.complain("caller turned away", journal.TurnedAway, "caller", caller, "error", err)
		g.turnAway(ctx, admitted, err)
		return
	}
	if ctx.Err() != nil || guard.await(g.first) != nil {
		guard.Close()
		return
	}
	// The server takes the one connection and is back at once.
	_ = g.server.Serve(WithCaller(ctx, caller), &once{conn: guard})
}

// enter counts a connection in, unless there are too many.
func (g *Gate) enter(c *guard) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	user := c.caller.UID
	switch {
	case g.users[user] >= maxUserConns:
		return fault.New(fault.Limit, "uid %d has %d connections, at most %d", user, g.users[user], maxUserConns)
	case !c.caller.Admin && g.tenants >= maxConns:
		return fault.New(fault.Limit, "tenants have %d connections, at most %d", g.tenants, maxConns)
	}
	g.conns[c] = struct{}{}
	g.users[user]++
	if !c.caller.Admin {
		g.tenants++
	}
	return nil
}

func (g *Gate) leave(c *guard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if g.users[c.caller.UID]--; g.users[c.caller.UID] == 0 {
		delete(g.users, c.caller.UID)
	}
	if !c.caller.Admin {
		g.tenants--
	}
}

// turnAway answers a peer's first call with the reason, if it makes one soon,
// and ends the connection.
func (g *Gate) turnAway(ctx context.Context, conn net.Conn, reason error) {
	defer conn.Close()
	var f *fault.Error
	if !errors.As(reason, &f) {
		return
	}
	select {
	case g.farewells <- struct{}{}:
		defer func() { <-g.farewells }()
	default:
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	guard := newGuard(conn, &Caller{UID: nobody}, func() {})
	guard.timeout = g.hello
	if guard.await(g.hello) != nil {
		return
	}
	if h, _, err := guard.readFrame(); err != nil || h.kind != typeRequest || guard.write(answer(h.stream, f)) != nil {
		return
	}
	// A client that learns of the end before it has read the answer may lose it.
	if conn.SetReadDeadline(time.Now().Add(farewellTimeout)) == nil {
		_, _ = io.CopyN(io.Discard, conn, maxFrame)
	}
}

// closeAll ends all connections.
func (g *Gate) closeAll() {
	g.mu.Lock()
	var all []*guard
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// complain logs, but not as often as others would have it.
func (g *Gate) complain(message string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.complaint) < complaintPause {
		g.hushed++
		return
	}
	if g.hushed > 0 {
		args = append(args, "more_of_the_kind", g.hushed)
	}
	g.complaint, g.hushed = time.Now(), 0
	g.log.Warn(message, args...)
}

// once is a listener with one connection.
type once struct {
	conn net.Conn
}

// Accept returns the connection, and then io.EOF, at which ttrpc's Serve returns
// and leaves the connection to a goroutine of its own.
func (o *once) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, io.EOF
	}
	conn := o.conn
	o.conn = nil
	return conn, nil
}

// Close ends the connection of a server that ended before it accepted.
func (o *once) Close() error {
	if o.conn == nil {
		return nil
	}
	return o.conn.Close()
}

// Addr implements net.Listener.
func (o *once) Addr() net.Addr { return nil }
