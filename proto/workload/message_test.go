package workload

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"RUNNING 0", "RUNNING 4294967295", "EXITED 137 3", "DONE 255", "FAILED G111", "LOG out ", "LOG err a b\nc\x00\xff", "LOG out " + strings.Repeat("x", MaxLog)} {
		if m, err := ParseInit([]byte(s)); err != nil || string(m.Bytes()) != s {
			t.Errorf("%.40q: %v %v", s, m, err)
		}
	}
	for _, s := range []string{"RESTART", "STOP", "SECRETS"} {
		if m, err := ParseAgent([]byte(s)); err != nil || string(m.Bytes()) != s {
			t.Errorf("%q: %v %v", s, m, err)
		}
	}
	for _, s := range []string{
		"", "RUNNING", "RUNNING 00", "RUNNING 4294967296", "RUNNING 1 ", "EXITED 256 0", "EXITED 1", "EXITED +1 0", "DONE", "DONE 1\n", "FAILED", "FAILED G11", "FAILED H111", "FAILED G111 ",
		"LOG", "LOG out", "LOG other x", "running 0", "STOP", "LOG out " + strings.Repeat("x", MaxLog+1),
	} {
		if m, err := ParseInit([]byte(s)); !errors.Is(err, ErrMessage) {
			t.Errorf("%.40q: %v %v", s, m, err)
		}
	}
	for _, s := range []string{"", "STOP ", "RESTART now", "RUNNING 0", "stop"} {
		if m, err := ParseAgent([]byte(s)); !errors.Is(err, ErrMessage) {
			t.Errorf("%q: %v %v", s, m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"RUNNING 0", "EXITED 137 3", "DONE 1", "FAILED G111", "LOG out hello", "RESTART", "STOP", "SECRETS"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (Message, error){ParseInit, ParseAgent} {
			if m, err := parse(b); err == nil && !bytes.Equal(m.Bytes(), b) {
				t.Errorf("%q is written as %q", b, m.Bytes())
			}
		}
	})
}
