package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// maxSocketPath is what sockaddr_un holds.
const maxSocketPath = 107

// listen returns systemd's socket (hostagent.socket) or makes one. Its group may
// connect; with tenants everybody may, and is then judged by who he is.
func listen(path string, gid int, tenants bool) (net.Listener, error) {
	l, err := listenUnix(path, gid)
	if a, ok := l.(*net.UnixListener); ok && tenants {
		if err := os.Chmod(a.Addr().String(), 0o666); err != nil {
			l.Close()
			return nil, fmt.Errorf("open socket to tenants: %w", err)
		}
	}
	return l, err
}

// listenUnix replaces a socket that a dead hostagent left, but none that is served.
func listenUnix(path string, gid int) (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take systemd's socket: %w", err)
	}
	switch {
	case len(passed) == 1 && passed[0] != nil:
		return passed[0], nil
	case len(passed) > 1:
		return nil, fmt.Errorf("take systemd's socket: it passed %d, wants one", len(passed))
	case len(path) > maxSocketPath:
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, a socket's may have %d: choose a shorter --socket", path, len(path), maxSocketPath)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another hostagent serves it: stop it, or choose another --socket", path)
	}
	if info, e := os.Lstat(path); e == nil && info.Mode().Type() == os.ModeSocket && errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket's folder: %w", err)
	}
	old := syscall.Umask(0o177) // nobody connects before its group is set
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if gid >= 0 {
		if err := errors.Join(os.Chown(path, -1, gid), os.Chmod(path, 0o660)); err != nil {
			l.Close()
			return nil, fmt.Errorf("give socket to its group: %w", err)
		}
	}
	return l, nil
}

// notify tells systemd that hostagent is up, and feeds the watchdog until the
// returned function is called. Outside of systemd it does nothing.
func notify(status string) (stop func()) {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+status)
	ctx, cancel := context.WithCancel(context.Background())
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		go func() {
			t := time.NewTicker(every / 2)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return func() {
		cancel()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	}
}
