package health

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemd is what hears of a Health: a socket as sd_notify finds it.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

// hear is the next message that is not the watchdog's.
func (s systemd) hear() string {
	s.t.Helper()
	for {
		if got := s.any(); got != "WATCHDOG=1" {
			return got
		}
	}
}

func (s systemd) any() string {
	s.t.Helper()
	b := make([]byte, 4096)
	_ = s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := s.conn.Read(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b[:n])
}

func listen(t *testing.T) systemd {
	t.Helper()
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return systemd{t, conn}
}

func started(t *testing.T, change func(*Health)) (h *Health, end func()) {
	h = New(slog.New(slog.DiscardHandler), func(s string) { _, _ = daemon.SdNotify(false, s) })
	h.Suffix = "; platform se"
	change(h)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return h, end
}

// What systemd hears: ready, each change once and only then, stopping.
func TestStatus(t *testing.T) {
	s := listen(t)
	var ready atomic.Int64
	h, end := started(t, func(h *Health) {
		h.States = func() map[string]int { return map[string]int{"ready": int(ready.Load()), "failed": 1} }
	})
	if got := s.hear(); got != "READY=1\nSTATUS=1 guest: 1 failed; platform se" {
		t.Errorf("first %q", got)
	}
	h.Changed() // of nothing that shows
	ready.Store(1)
	for range 1000 {
		h.Changed()
	}
	if got := s.hear(); got != "STATUS=2 guests: 1 ready, 1 failed; platform se" {
		t.Errorf("a change: %q", got)
	}
	h.Set(State, errors.New("disk\nREADY=1\x00 is full"))
	if got := s.hear(); got != "STATUS=2 guests: 1 ready, 1 failed; platform se; state folder can't be written: disk READY=1  is full" {
		t.Errorf("a problem: %q", got)
	}
	if well := h.Well(); well[State] || !well[Alive] {
		t.Errorf("%v", well)
	}
	h.Set(State, nil)
	if got := s.hear(); got != "STATUS=2 guests: 1 ready, 1 failed; platform se" {
		t.Errorf("no problem: %q", got)
	}
	end()
	if got := s.hear(); got != "STOPPING=1" {
		t.Errorf("at the end %q", got)
	}
}

// The watchdog is fed while the pings answer, and again once they do; a check
// that fails is a problem and no reason to be ended.
func TestWatchdog(t *testing.T) {
	s := listen(t)
	var sick atomic.Bool
	hang := make(chan struct{})
	started(t, func(h *Health) {
		h.Every = 400 * time.Millisecond
		h.Checks[State] = Writable(filepath.Join(t.TempDir(), "absent"))
		h.Pings = []func(context.Context) error{func(context.Context) error {
			if sick.Load() {
				<-hang // as at a lock that is held for good
			}
			return nil
		}}
	})
	fed := func() {
		t.Helper()
		for s.any() != "WATCHDOG=1" {
		}
	}
	fed()
	fed()
	sick.Store(true)
	for got := ""; !strings.Contains(got, "hostagent does not answer itself"); got = s.any() {
	}
	// From here on nothing but STATUS comes.
	_ = s.conn.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	for b := make([]byte, 4096); ; {
		n, err := s.conn.Read(b)
		if err != nil {
			break
		}
		if string(b[:n]) == "WATCHDOG=1" {
			t.Fatal("fed while it hangs")
		}
	}
	sick.Store(false)
	close(hang)
	fed()
}

func TestStatusIsBounded(t *testing.T) {
	t.Parallel()
	h := New(slog.New(slog.DiscardHandler), func(string) {})
	h.Set(Node, errors.New(strings.Repeat("ä", 5000)))
	if s := h.Status(); len(s) > maxStatus || strings.ContainsRune(s, '\ufffd') {
		t.Errorf("%d bytes", len(s))
	}
}

func TestWritable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := Writable(dir)(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
	if err := Writable(filepath.Join(dir, "absent"))(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
