package podnet

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience bounds each question to the kernel.
const patience = 10 * time.Second

// errGone says that there is no such namespace any more.
var errGone = errors.New("network namespace is gone")

// within runs something on a thread of its own in a network namespace, with a way
// to ask the kernel there. The thread ends with it.
func within(ctx context.Context, path string, do func(*netlink.Handle) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and is never unlocked: the thread stays in the namespace
		done <- enter(path, do)
	}()
	return <-done
}

func enter(path string, do func(*netlink.Handle) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("open %s: %w", path, errGone)
	} else if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var there, here unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &there), unix.Stat("/proc/thread-self/ns/net", &here)); err != nil {
		return fmt.Errorf("compare %s with the node's network namespace: %w", path, err)
	}
	if there.Dev == here.Dev && there.Ino == here.Ino {
		return ErrHostNetwork
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("enter %s: %w", path, errGone) // a file that a namespace was mounted over
	} else if err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("ask the kernel in %s: %w", path, err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(patience); err != nil {
		return fmt.Errorf("ask the kernel in %s: %w", path, err)
	}
	return do(h)
}
