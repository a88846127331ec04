package guest

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConsole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	if data, next, size, err := ReadConsole(path, 0, 0); err != nil || len(data) != 0 || next != 0 || size != 0 {
		t.Errorf("no log: %q %d %d %v", data, next, size, err)
	}
	if _, err := rotate(path); err != nil {
		t.Errorf("no log: %v", err)
	}
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset, next int64
		limit        int
		want         string
	}{{0, 10, 0, "0123456789"}, {3, 7, 4, "3456"}, {-3, 10, 0, "789"}, {-100, 10, 0, "0123456789"}, {10, 10, 5, ""}, {99, 10, 0, "0123456789"}} {
		if data, next, size, err := ReadConsole(path, c.offset, c.limit); err != nil || string(data) != c.want || next != c.next || size != 10 {
			t.Errorf("from %d, %d bytes: %q %d %d %v", c.offset, c.limit, data, next, size, err)
		}
	}
}

func TestConsoleIsRotated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	qemu, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) // as QEMU has it
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	if _, err := qemu.Write(bytes.Repeat([]byte("x"), maxConsole+1)); err != nil {
		t.Fatal(err)
	}
	if long, err := rotate(path); err != nil || !long {
		t.Fatal(err)
	}
	if _, err := qemu.WriteString("after"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "after" {
		t.Errorf("log holds %.40q of %d bytes", got, len(got))
	}
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() != maxConsole {
		t.Errorf("older log: %v %v", info, err)
	}
}

// What a guest writes can neither steer a terminal nor forge a line.
func TestTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	hostile := strings.Repeat("old\n", 2000) + "\x1b[2Jlevel=ERROR msg=forged\r\nlast \xff\xfe\x00 line"
	if err := os.WriteFile(path, []byte(hostile), 0o600); err != nil {
		t.Fatal(err)
	}
	got := withTail("guest g ended", "console", path)
	if strings.ContainsAny(got, "\x1b\n\r\x00") || !strings.HasSuffix(got, "?[2Jlevel=ERROR msg=forged | last ?? line") || len(got) > tailBytes+100 {
		t.Errorf("%q", got)
	}
	if got := withTail("m", "console", path+".absent"); got != "m" {
		t.Errorf("%q", got)
	}
}

// Logs are rotated while they are written to, and not looked at otherwise; where
// there is no inotify too.
func TestLogsAreWatched(t *testing.T) {
	t.Parallel()
	for _, blind := range []bool{false, true} {
		l := newLogs(slog.New(slog.DiscardHandler))
		if blind {
			l.close()
			l.notify = nil
		}
		done := make(chan struct{})
		go func() { defer close(done); l.run() }()
		dir := t.TempDir()
		path := filepath.Join(dir, "console.log")
		qemu, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer qemu.Close()
		w := l.watch(path)
		idle := l.watch(filepath.Join(dir, "none.log")) // not there
		waiting := func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.watched) == 1 }
		if !blind && !waiting() {
			t.Fatal("an idle log is not left to the kernel")
		}
		chunk := bytes.Repeat([]byte("x"), 1<<20)
		for end := time.Now().Add(30 * time.Second); !blind; time.Sleep(20 * time.Millisecond) {
			if _, err := qemu.Write(chunk); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path + ".1"); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal("a flooded log is not rotated")
			}
		}
		for end := time.Now().Add(30 * time.Second); !blind && !waiting(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a log is looked at after the flood")
			}
		}
		if w.mu.Lock(); blind && w.timer == nil {
			t.Error("without inotify nobody looks at a log")
		}
		w.mu.Unlock()
		w.end()
		idle.end()
		if len(l.watched) != 0 {
			t.Errorf("%d logs are watched after the end", len(l.watched))
		}
		l.close()
		<-done
	}
}
