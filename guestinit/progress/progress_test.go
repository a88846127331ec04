package progress

import (
	"errors"
	"strings"
	"testing"

	"github.com/secexec/secexec/proto/readiness"
)

// flaky is a port that the host connects to after some writes.
type flaky struct {
	deaf  int
	lines []string
}

func (f *flaky) Write(line []byte) error {
	if f.deaf > 0 {
		f.deaf--
		return errors.New("would block")
	}
	f.lines = append(f.lines, string(line))
	return nil
}

func TestHelloIsRepeatedUntilTaken(t *testing.T) {
	t.Parallel()
	port := &flaky{deaf: 2} // loses HELLO and the first stage
	s := New(port, [16]byte{0xab})
	s.Pass(readiness.StageKernel, 10)
	s.Pass(readiness.StageUnlocked, 20)
	s.Fail("G109", 30)
	want := "HELLO 3 guestinit ab000000000000000000000000000000\nSTAGE unlocked 20\nFAIL G109 30\n"
	if got := strings.Join(port.lines, ""); got != want {
		t.Errorf("got %q, wants %q", got, want)
	}
	if len(s.Passed) != 2 {
		t.Errorf("passed %v", s.Passed)
	}
}

func TestLatePort(t *testing.T) {
	t.Parallel()
	port := &flaky{}
	s := New(nil, [16]byte{0xab})
	s.Pass(readiness.StageKernel, 10)
	s.Attach(port)
	s.Pass(readiness.StageUnlocked, 20)
	want := "HELLO 3 guestinit ab000000000000000000000000000000\nSTAGE unlocked 20\n"
	if got := strings.Join(port.lines, ""); got != want || len(s.Passed) != 2 {
		t.Errorf("got %q, wants %q; passed %v", got, want, s.Passed)
	}
}

func TestWithoutPort(t *testing.T) {
	t.Parallel()
	s := New(nil, [16]byte{})
	s.Pass(readiness.StageKernel, 1)
	s.Fail("G101", 2)
	if len(s.Passed) != 1 {
		t.Errorf("passed %v", s.Passed)
	}
}
