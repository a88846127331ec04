package guest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConsole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	if data, next, size, err := ReadConsole(path, 0, 0); err != nil || len(data) != 0 || next != 0 || size != 0 {
		t.Errorf("no log: %q %d %d %v", data, next, size, err)
	}
	if err := rotate(path); err != nil {
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
	if err := rotate(path); err != nil {
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
