package metrics

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Listen listens at an address of [Address]. A unix socket is for root, and for
// the group if one is given (gid >= 0) and this process may give files away; one
// that a dead hostagent left is replaced.
func Listen(network, address string, gid int) (net.Listener, error) {
	if network != "unix" {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, fmt.Errorf("serve metrics: %w", err)
		}
		return l, nil
	}
	if conn, err := net.DialTimeout("unix", address, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("serve metrics on %s: another program serves it", address)
	} else if info, e := os.Lstat(address); e == nil && info.Mode().Type() == os.ModeSocket && errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(address); err != nil {
			return nil, fmt.Errorf("serve metrics: remove stale socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o755); err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", address)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	if gid >= 0 {
		err := os.Chown(address, -1, gid)
		if errors.Is(err, os.ErrPermission) {
			return l, nil // confined by its unit: root alone scrapes, or hostagent-metrics.socket
		}
		if err := errors.Join(err, os.Chmod(address, 0o660)); err != nil {
			l.Close()
			return nil, fmt.Errorf("serve metrics: give socket to its group: %w", err)
		}
	}
	return l, nil
}
