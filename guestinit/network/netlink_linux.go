package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// kernel is a conversation with the kernel's rtnetlink.
type kernel struct {
	fd  int
	seq uint32
}

func dialKernel() (*kernel, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	// The kernel answers at once; a wait without an end is none of ours.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bound rtnetlink's waits: %w", err)
	}
	return &kernel{fd: fd}, nil
}

func (k *kernel) close() { unix.Close(k.fd) }

// ask sends the request that build makes and reads the answer to its end.
func (k *kernel) ask(build func(order binary.ByteOrder, seq uint32) []byte) ([]link, error) {
	k.seq++
	if err := unix.Sendto(k.fd, build(binary.NativeEndian, k.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask rtnetlink: %w", err)
	}
	var links []link
	b := make([]byte, 32<<10) // NLMSG_GOODSIZE is at most 8 KiB; dumps use up to 32
	for {
		n, from, err := unix.Recvfrom(k.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("hear rtnetlink: %w", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not the kernel
		}
		r, err := parseReply(binary.NativeEndian, b[:n], k.seq)
		if err != nil {
			return nil, err
		}
		links = append(links, r.links...)
		if r.errno != 0 {
			return nil, unix.Errno(r.errno)
		}
		if r.done {
			return links, nil
		}
	}
}

func (k *kernel) do(build func(order binary.ByteOrder, seq uint32) []byte) error {
	_, err := k.ask(build)
	return err
}
