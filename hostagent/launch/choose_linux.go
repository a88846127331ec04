package launch

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Names of launchers, as settings have them.
const (
	NameAuto    = "auto"
	NameSystemd = "systemd"
	NameDirect  = "direct"
)

// Choose returns the launcher of a name: auto is systemd where systemd started
// this process and can be reached as root, and direct elsewhere. done lets go of
// it; processes run on.
func Choose(ctx context.Context, name string, log *slog.Logger) (l Launcher, done func(), err error) {
	switch {
	case name == NameDirect, name == NameAuto && !isService():
		return Direct{}, func() {}, nil
	case name != NameAuto && name != NameSystemd:
		return nil, nil, fmt.Errorf("launcher %q is none of %s, %s and %s", name, NameAuto, NameSystemd, NameDirect)
	}
	program, err := ownProgram()
	if err != nil {
		return nil, nil, err
	}
	s, err := NewSystemd(ctx, program, log)
	if err == nil {
		return s, s.Close, nil
	}
	if name == NameSystemd {
		return nil, nil, err
	}
	log.Warn("guests are launched as children, without units of their own", "error", err)
	return Direct{}, func() {}, nil
}

// isService tells whether systemd started this process, as root, on a machine
// that it booted.
func isService() bool {
	_, err := os.Stat(systemdPresent)
	return err == nil && os.Geteuid() == 0 && os.Getppid() == 1 && os.Getenv("INVOCATION_ID") != ""
}

// ownProgram is the path of this program, also after an upgrade has replaced its
// file: the protocol of mode exec tells the versions apart.
func ownProgram() (string, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	return strings.TrimSuffix(path, " (deleted)"), nil
}
