package guest

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/proto/readiness"
)

// qemuPort serves a readiness socket as QEMU would.
func qemuPort(t *testing.T) (path string, accept func() net.Conn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path, func() net.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func readLine(t *testing.T, c net.Conn) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

func TestPortReconnectsAndAsksAgain(t *testing.T) {
	t.Parallel()
	path, accept := qemuPort(t)
	p := newPort(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	go p.run(ctx, path)
	for range 2 {
		c := accept()
		for _, want := range []string{"HELLO 3 hostagent", "PING 01"} {
			if got := readLine(t, c); got != want {
				t.Errorf("greeted with %q, wants %q", got, want)
			}
		}
		if _, err := c.Write([]byte("half a line that an earlier hostagent missed the start of\nSTAGE kernel 5\nSTAGE nonsense 1\n")); err != nil {
			t.Fatal(err)
		}
		if m := <-p.messages; m.String() != "STAGE kernel 5" {
			t.Errorf("got %s", m)
		}
		if err := p.write([]readiness.Message{readiness.PowerOff{}}); err != nil || readLine(t, c) != "POWEROFF" {
			t.Errorf("send: %v", err)
		}
		c.Close()
	}
	cancel()
	unconnected(t, p)
	if err := p.write([]readiness.Message{readiness.PowerOff{}}); err == nil {
		t.Error("send without a connection succeeds")
	}
}

// A guest that floods the port with anything costs bounded memory and time.
func TestPortFlood(t *testing.T) {
	t.Parallel()
	path, accept := qemuPort(t)
	p := newPort(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	go p.run(ctx, path)
	c := accept()
	readLine(t, c)
	if err := c.SetDeadline(time.Now().Add(1500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for flood := bytes.Repeat([]byte("STAGE ready 1\n"+strings.Repeat("x", 300)), 100); ; {
		n, err := c.Write(flood)
		sent += n
		if err != nil {
			break // the host stopped reading: back pressure
		}
	}
	if limit := 4 * readiness.HostRate; sent > limit {
		t.Errorf("%d bytes taken in 1.5 s, wants at most %d", sent, limit)
	}
	if n := len(p.messages); n > portBacklog {
		t.Errorf("%d messages held", n)
	}
	cancel()
	unconnected(t, p)
}

// unconnected waits for the connection's end.
func unconnected(t *testing.T, p *port) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); p.connection() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the port is still connected")
		}
	}
}
