package launch

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// withSystemd skips where this process is not root under systemd. Tests that need
// it run in a node: see cross/node.
func withSystemd(t *testing.T) *Systemd {
	t.Helper()
	if _, err := os.Stat(systemdPresent); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root on a machine that systemd booted: cross/node runs this test in one")
	}
	s, err := NewSystemd(t.Context(), os.Args[0], slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestExitOfAUnit(t *testing.T) {
	s := withSystemd(t)
	p, err := s.Start(t.Context(), role("exit", filepath.Join(t.TempDir(), "log")))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := waitExit(t, p), (Exit{Code: 7, Known: true}); got != want {
		t.Errorf("exit %+v, want %+v", got, want)
	}
}
