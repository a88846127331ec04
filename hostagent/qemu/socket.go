package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// DialSocket connects to a unix socket that a QEMU makes when it starts: while
// the socket does not exist or nobody listens on it yet it tries again, at first
// each millisecond, until the context is done.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > maxSocketPath {
		return nil, invalid("socket path %q has %d bytes, a unix socket has room for %d", path, len(path), maxSocketPath)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() == nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for socket %s: %w (%v)", path, context.Cause(ctx), err)
		}
	}
}
