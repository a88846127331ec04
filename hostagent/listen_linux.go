package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// maxSocketPath is what sockaddr_un holds.
const maxSocketPath = 107

// passedSockets are the sockets that systemd passes: the API's (hostagent.socket)
// and that of metrics (hostagent-metrics.socket), where there are any.
func passedSockets() (served, scraped []net.Listener, err error) {
	all, err := activation.ListenersWithNames()
	if err != nil {
		return nil, nil, fmt.Errorf("take systemd's sockets: %w", err)
	}
	for name, some := range all {
		if name == "metrics" {
			scraped = append(scraped, some...)
		} else {
			served = append(served, some...)
		}
	}
	return served, scraped, nil
}

// listen returns systemd's socket (hostagent.socket) or makes one. Its group may
// connect; with tenants everybody may, and is then judged by who he is.
func listen(passed []net.Listener, path string, gid int, tenants bool) (net.Listener, error) {
	l, err := listenUnix(passed, path, gid)
	if a, ok := l.(*net.UnixListener); ok && tenants {
		if err := os.Chmod(a.Addr().String(), 0o666); err != nil {
			l.Close()
			return nil, fmt.Errorf("open socket to tenants: %w", err)
		}
	}
	return l, err
}

// servedPatience is how long a socket may be held by what an ended hostagent left.
const servedPatience = time.Second

// listenUnix replaces a socket that a dead hostagent left, but none that is served.
func listenUnix(passed []net.Listener, path string, gid int) (net.Listener, error) {
	switch {
	case len(passed) == 1 && passed[0] != nil:
		return passed[0], nil
	case len(passed) > 1:
		return nil, fmt.Errorf("take systemd's socket: it passed %d, wants one", len(passed))
	case len(path) > maxSocketPath:
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, a socket's may have %d: choose a shorter --socket", path, len(path), maxSocketPath)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	// A hostagent that was killed while it started a process: that process has the
	// socket until it becomes another program.
	for end := time.Now().Add(servedPatience); err == nil; conn, err = net.DialTimeout("unix", path, time.Second) {
		conn.Close()
		if time.Now().After(end) {
			return nil, fmt.Errorf("listen on %s: another hostagent serves it: stop it, or choose another --socket", path)
		}
		time.Sleep(10 * time.Millisecond)
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
