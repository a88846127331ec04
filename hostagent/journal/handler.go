// Package journal logs to systemd's journal: fields that operators can match on
// and an identifier per kind of event, from ordinary calls of log/slog.
package journal

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Socket is where journald takes entries.
const Socket = "/run/systemd/journal/socket"

// patience is how long a log line may wait for a journald that does not read. It
// is lost then: a guest's life does not wait for a log.
const patience = 200 * time.Millisecond

// Handler sends log lines to journald.
type Handler struct {
	out    io.Writer // one entry in each Write
	level  slog.Level
	attrs  []slog.Attr // of WithAttrs, with their groups' names
	groups string      // of WithGroup: "a.b."
}

// NewHandler writes entries to w, from a level on.
func NewHandler(w io.Writer, level slog.Level) *Handler { return &Handler{out: w, level: level} }

var _ slog.Handler = (*Handler)(nil)

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.Clip(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, h.groups, a)
		return true
	})
	_, err := h.out.Write(encode(r.Level, r.Message, r.PC, attrs))
	return err
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		c.attrs = flatten(c.attrs, h.groups, a)
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.groups += name + "."
	return &c
}

// flatten resolves an attribute and takes groups apart.
func flatten(out []slog.Attr, groups string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return out
	case a.Value.Kind() == slog.KindGroup:
		if a.Key != "" {
			groups += a.Key + "."
		}
		for _, inner := range a.Value.Group() {
			out = flatten(out, groups, inner)
		}
		return out
	}
	a.Key = groups + a.Key
	return append(out, a)
}

// Conn is a connection to journald that comes back when journald does. It is
// safe for several goroutines.
type Conn struct {
	path string

	mu   sync.Mutex
	conn net.Conn // nil: none
}

// Dial connects to the journal's socket.
func Dial(path string) (*Conn, error) {
	c := &Conn{path: path}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.dialLocked()
}

func (c *Conn) dialLocked() (err error) {
	c.conn, err = net.DialTimeout("unixgram", c.path, patience)
	return err
}

// Write sends one entry.
func (c *Conn) Write(entry []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for attempt := 0; ; attempt++ {
		if c.conn == nil {
			if err := c.dialLocked(); err != nil {
				return 0, err
			}
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
		n, err := c.conn.Write(entry)
		var waited net.Error
		if err == nil || errors.As(err, &waited) && waited.Timeout() {
			return n, err
		}
		c.conn.Close()
		c.conn = nil
		if attempt == 1 {
			return n, err
		}
	}
}
