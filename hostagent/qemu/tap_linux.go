package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/form"
)

// ErrTap is wrapped by every error about a tap interface.
var ErrTap = errors.New("can't attach network")

// openNets opens the queues of all tap interfaces, or takes them over, to be
// descriptors of QEMU from number first on, in this order; a description of a
// network comes last. The caller closes its own.
func openNets(ctx context.Context, c *Config, first int) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			Close(files)
			files = nil
		}
	}()
	var description []byte
	for i := range c.Nets {
		n := &c.Nets[i]
		var queues []*os.File
		switch {
		case n.User:
			continue
		case n.Socket != "":
			queues, description, err = TakeTap(ctx, n.Socket, n.Queues)
		default:
			queues, err = OpenTap(n.Tap, n.Queues)
		}
		if err != nil {
			return files, err
		}
		n.FDs = nil
		for range queues {
			n.FDs = append(n.FDs, first+len(files)+len(n.FDs))
		}
		files = append(files, queues...)
	}
	if c.letter = 0; description != nil {
		ends, err := letterbox(description)
		if err != nil {
			return files, fmt.Errorf("%w: %w", ErrTap, err)
		}
		c.letter = first + len(files)
		files = append(files, ends...)
	}
	return files, nil
}

// OpenTap opens the queues of a tap interface that exists, one descriptor each,
// for a QEMU to inherit; the caller closes them. It needs CAP_NET_ADMIN, or to be
// the interface's owner, which QEMU then doesn't.
func OpenTap(name string, queues int) ([]*os.File, error) {
	queues = max(queues, 1)
	flags, err := CheckTap("/sys", name, queues)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for range queues {
		f, err := openTap(name, flags)
		if err != nil {
			Close(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// CheckTap finds an interface in sysfs and tells the flags that its queues are
// opened with: those that it was made with, or the kernel refuses.
func CheckTap(sysfs, name string, queues int) (flags uint16, err error) {
	if !form.Tap.MatchString(name) {
		return 0, invalid("tap interface %q is no interface name", name)
	}
	dir := filepath.Join(sysfs, "class/net", name)
	make := "ip tuntap add dev " + name + " mode tap"
	if queues > 1 {
		make += " multi_queue"
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: there is no interface %s: make it by your network manager, or with %s", ErrTap, name, make)
	}
	text, err := os.ReadFile(filepath.Join(dir, "tun_flags"))
	if err != nil {
		return 0, fmt.Errorf("%w: %s is no tap interface: make one with %s, and put both into a bridge", ErrTap, name, make)
	}
	had, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: flags of %s: %w", ErrTap, name, err)
	case had&unix.IFF_TAP == 0:
		return 0, fmt.Errorf("%w: %s is a tun interface, without Ethernet: make one with %s", ErrTap, name, make)
	case queues > 1 && had&unix.IFF_MULTI_QUEUE == 0:
		return 0, fmt.Errorf("%w: %s has one queue, the guest wants %d: make it with %s", ErrTap, name, queues, make)
	}
	return unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | uint16(had&unix.IFF_MULTI_QUEUE), nil
}

func openTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open /dev/net/tun: %w: load the kernel module tun", ErrTap, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), name), nil
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: %s is in use, by another guest or program", ErrTap, name)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: %s may not be opened: hostagent wants CAP_NET_ADMIN, or to be its owner", ErrTap, name)
	default:
		err = fmt.Errorf("%w: open %s: %w", ErrTap, name, err)
	}
	return nil, errors.Join(err, unix.Close(fd))
}
