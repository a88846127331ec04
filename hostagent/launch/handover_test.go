package launch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const run1 = "0123456789abcdef0123456789abcdef"

func someHandover() *handover {
	return &handover{Version: 1, Program: "/usr/bin/qemu", Argv: []string{"qemu", "-uuid", testUUID}, Env: []string{"PATH=/usr/bin"}, Dir: "/", Files: 2}
}

func TestHandover(t *testing.T) {
	t.Parallel()
	text, err := someHandover().marshal()
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseHandover(text)
	if err != nil || !reflect.DeepEqual(h, someHandover()) {
		t.Fatalf("%+v, %v", h, err)
	}
	for _, c := range []struct{ name, text, words string }{
		{"empty", "", "unexpected end"},
		{"cut off", string(text[:len(text)-1]), "unexpected end"},
		{"text after it", string(text) + "x", "invalid character"},
		{"second message", string(text) + "{}", "invalid character"},
		{"another version", strings.Replace(string(text), `"version":1`, `"version":2`, 1), "version 2, this program speaks 1"},
		{"unknown member", strings.Replace(string(text), `"dir"`, `"wd"`, 1), `"wd"`},
		{"too long", string(text) + strings.Repeat(" ", maxHandover), "more than"},
	} {
		if _, err := parseHandover([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.name, err, c.words)
		}
	}
	for name, spoil := range map[string]func(h *handover){
		"no arguments":       func(h *handover) { h.Argv = nil },
		"program by name":    func(h *handover) { h.Program = "qemu" },
		"no folder":          func(h *handover) { h.Dir = "" },
		"too many files":     func(h *handover) { h.Files = maxFiles + 1 },
		"negative files":     func(h *handover) { h.Files = -1 },
		"NUL":                func(h *handover) { h.Argv[1] = "a\x00b" },
		"NUL in environment": func(h *handover) { h.Env[0] = "a=\x00" },
		"too much":           func(h *handover) { h.Argv[1] = strings.Repeat("a", maxHandover) },
	} {
		h := someHandover()
		spoil(h)
		if _, err := h.marshal(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	pid, run, err := parseReport(report(123, run1))
	if err != nil || pid != 123 || run != run1 {
		t.Fatalf("%d %q %v", pid, run, err)
	}
	if _, _, err := parseReport(nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no report: %v", err)
	}
	for _, c := range []struct{ text, words string }{
		{"1 123 " + run1 + "\nexecute /x: permission\ndenied\x1b[1m", "execute /x: permission denied?[1m"},
		{"take over: hostagent ended", "hostagent ended"},
		{"2 123 " + run1 + "\n", "read report"},
		{"1 1 " + run1 + "\n", "process"},
		{"1 0123 " + run1 + "\n", "process"},
		{"1 -5 " + run1 + "\n", "process"},
		{"1 123 x\n", "invocation"},
		{"1 123\n", "read report"},
		{strings.Repeat("a", maxReport+1), "more than"},
	} {
		if _, _, err := parseReport([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v, want %q", c.text, err, c.words)
		}
	}
}

func FuzzParseHandover(f *testing.F) {
	text, _ := someHandover().marshal()
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := parseHandover(text)
		if err != nil {
			return
		}
		again, err := h.marshal()
		if err != nil && len(text) < maxHandover/8 {
			t.Fatalf("parsed, but: %v", err)
		}
		if err == nil {
			if same, err := parseHandover(again); err != nil || !reflect.DeepEqual(same, h) {
				t.Errorf("%+v became %+v, %v", h, same, err)
			}
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add(report(123, run1))
	f.Add([]byte("1 123 x\nno"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pid, run, err := parseReport(text)
		if err == nil && (pid <= 1 || !isInvocation(run)) {
			t.Errorf("%d %q", pid, run)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Errorf("message %q", err)
		}
	})
}

// What a unit's process refuses to become.
func TestTakeOverRefusals(t *testing.T) {
	t.Parallel()
	good, err := someHandover().marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		send  func(socket int, null int) error
		words string
	}{
		{"silence", func(int, int) error { return nil }, "take over"},
		{"the end", func(socket, _ int) error { return unix.Shutdown(socket, unix.SHUT_WR) }, "hostagent ended"},
		{"no descriptors", func(s, _ int) error { return unix.Sendmsg(s, good, nil, nil, 0) }, "0 descriptors came, 4 were announced"},
		{"too few descriptors", func(s, null int) error { return unix.Sendmsg(s, good, unix.UnixRights(null, null), nil, 0) }, "2 descriptors came"},
		{"too many descriptors", func(s, null int) error {
			many := make([]int, 253) // SCM_MAX_FD
			for i := range many {
				many[i] = null
			}
			return unix.Sendmsg(s, good, unix.UnixRights(many...), nil, 0)
		}, "cut off"},
		{"garbage", func(s, null int) error { return unix.Sendmsg(s, []byte("{"), unix.UnixRights(null), nil, 0) }, "unexpected end"},
		{"too long", func(s, null int) error {
			return unix.Sendmsg(s, make([]byte, maxHandover+2), unix.UnixRights(null), nil, 0)
		}, "cut off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			defer unix.Close(ends[0])
			defer unix.Close(ends[1])
			if err := c.send(ends[0], int(null.Fd())); err != nil {
				t.Fatal(err)
			}
			_, fds, err := takeOver(ends[1], 200*time.Millisecond)
			for _, fd := range fds {
				unix.Close(fd)
			}
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %q", err, c.words)
			}
		})
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, _, err := takeOver(int(file.Fd()), time.Second); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("from a file: %v", err)
	}
}
