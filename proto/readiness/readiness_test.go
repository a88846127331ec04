package readiness

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

var id = strings.Repeat("0a", IDSize)

func TestGuestMessages(t *testing.T) {
	t.Parallel()
	good := []string{
		"HELLO 1 guestinit " + id, "HELLO 1 guestagent " + id, "STAGE kernel 0", "STAGE ready 281474976710655",
		"FAIL G101 12", "PONG 0a", "REPORT AQID", "BYE", "HELLO 2 guestagent " + id, "HELLO 9999 guestinit " + id,
		"STAGE running 1", "EXIT 0", "EXIT 255", "UNHEALTHY", "HEALTHY",
	}
	for _, line := range good {
		if m, err := ParseGuest(line); err != nil || m.String() != line {
			t.Errorf("%q: %v %v", line, m, err)
		}
	}
	bad := []string{
		"", "HELLO", "HELLO 0 guestinit " + id, "HELLO 10000 guestinit " + id, "HELLO 01 guestinit " + id, "HELLO 1 other " + id, "HELLO 1 guestinit " + id + "00", "HELLO 1 guestinit " + strings.ToUpper(id),
		"HELLO 1 guestinit " + id + " ", "STAGE kernel", "STAGE kernel 01", "STAGE kernel -1", "STAGE kernel +1", "STAGE other 1", "STAGE  kernel 1",
		"STAGE ready 281474976710656", "FAIL G1 1", "FAIL H101 1", "FAIL G10a 1", "PONG", "PONG xyz", "PONG " + strings.Repeat("0", 33),
		"REPORT", "REPORT !", "REPORT AQI", "REPORT AQID\r", "BYE ", "bye", "PING 00", "POWEROFF", "EXIT", "EXIT 256", "EXIT -1", "EXIT 01", "EXIT 0 0", "HEALTHY ", "HELLO 2 hostagent", "\x1b[2J", "REPORT " + strings.Repeat("A", MaxLine),
	}
	for _, line := range bad {
		if m, err := ParseGuest(line); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: %v %v", line, m, err)
		}
	}
}

func TestHostMessages(t *testing.T) {
	t.Parallel()
	nonce := strings.Repeat("5e", NonceSize)
	for _, line := range []string{"HELLO 1 hostagent", "HELLO 2 hostagent", "HELLO 9999 hostagent", "PING 0", "PING ff00", "CHALLENGE " + nonce, "POWEROFF"} {
		if m, err := ParseHost(line); err != nil || m.String() != line {
			t.Errorf("%q: %v %v", line, m, err)
		}
	}
	for _, line := range []string{
		"", "PING", "PING g", "CHALLENGE", "CHALLENGE " + nonce[2:], "CHALLENGE " + nonce + "00", "CHALLENGE " + nonce + " x",
		"CHALLENGE " + strings.ToUpper(nonce), "POWEROFF now", "BYE", "HELLO", "HELLO 0 hostagent", "HELLO 2", "HELLO 2 guestinit", "HELLO 2 hostagent x", "HELLO 65537 hostagent", "exec /bin/sh",
	} {
		if m, err := ParseHost(line); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: %v %v", line, m, err)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", MaxLine-1)
	stream := "half of a line\nBYE\n" + longest + "\n" + longest + "y\n\nPING 1\nunfinished"
	want := []string{"half of a line", "BYE", longest, "", "PING 1"}
	for _, size := range []int{1, 7, 4096, len(stream)} {
		var l Lines
		var got []string
		for chunk := range slices.Chunk([]byte(stream), size) {
			got = append(got, all(&l, chunk)...)
		}
		if !slices.Equal(got, want) || l.Dropped != 1 {
			t.Errorf("chunks of %d: %d lines, %d dropped", size, len(got), l.Dropped)
		}
		l.Reset()
		if got := all(&l, []byte("BYE\n")); !slices.Equal(got, []string{"BYE"}) {
			t.Errorf("after Reset: %q", got)
		}
	}
}

// all are the lines that bytes complete.
func all(l *Lines, b []byte) (lines []string) {
	for len(b) > 0 {
		line, rest, ok := l.Next(b)
		if b = rest; ok {
			lines = append(lines, line)
		}
	}
	return lines
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{"HELLO 1 guestinit " + id, "STAGE ready 12", "FAIL G101 12", "PING 0a", "CHALLENGE " + strings.Repeat("5e", NonceSize), "REPORT AQID"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, parse := range []func(string) (Message, error){ParseGuest, ParseHost} {
			if m, err := parse(line); err == nil && m.String() != line {
				t.Errorf("%q is written as %q", line, m)
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("BYE\nPING 1\n"), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var l Lines
		for chunk := range slices.Chunk(stream, int(size)+1) {
			for _, line := range all(&l, chunk) {
				if len(line) >= MaxLine || strings.Contains(line, "\n") {
					t.Errorf("line of %d bytes", len(line))
				}
			}
			if len(l.buf) >= MaxLine {
				t.Errorf("holds %d bytes", len(l.buf))
			}
		}
	})
}
