package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/peer"
	"github.com/secexec/secexec/proto/network"
)

// takePatience is how long a program may take to hand over a tap interface.
const takePatience = 10 * time.Second

// tunDevice is /dev/net/tun (Documentation/admin-guide/devices.txt).
var tunDevice = unix.Mkdev(10, 200)

// TakeTap takes over the queues of a tap interface, and the description of its
// network for the guest, from the program that listens at a unix socket of type
// SOCK_SEQPACKET: one message, whose bytes are the description and whose
// descriptors are the queues (SCM_RIGHTS). So an interface can be in any network
// namespace, and hostagent needs no right to enter it.
//
// The program must be root's or this process's user's. The description is not
// looked at: who believes it is the guest.
func TakeTap(ctx context.Context, socket string, queues int) (files []*os.File, description []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, takePatience)
	defer cancel()
	files, description, err = takeTap(ctx, socket, max(queues, 1))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: no tap interface is handed over at %s: %w", ErrTap, socket, err)
	}
	return files, description, nil
}

func takeTap(ctx context.Context, socket string, queues int) (files []*os.File, description []byte, err error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the program that made it must run", err)
	}
	conn := c.(*net.UnixConn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := peer.Trusted(conn); err != nil { // a descriptor becomes the guest's
		return nil, nil, fmt.Errorf("who listens there: %w", err)
	}
	// More descriptors than there is room for are dropped by the kernel, with a flag.
	b, rights := make([]byte, network.MaxSize+1), make([]byte, unix.CmsgSpace(4*MaxNetQueues))
	n, m, flags, _, err := conn.ReadMsgUnix(b, rights)
	if err != nil {
		return nil, nil, err
	}
	files, err = received(rights[:m])
	defer func() {
		if err != nil {
			Close(files)
			files = nil
		}
	}()
	switch {
	case err != nil:
		return files, nil, err
	case flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || n > network.MaxSize:
		return files, nil, fmt.Errorf("a message with a description of %d bytes, at most %d, or with too many descriptors", n, network.MaxSize)
	case len(files) != queues:
		return files, nil, fmt.Errorf("%d descriptors came for %d queues", len(files), queues)
	}
	return files, b[:n], checkQueues(files)
}

// received are the descriptors of a message, also on an error.
func received(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

// checkQueues wants queues of one tap interface, made as QEMU needs them.
func checkQueues(files []*os.File) error {
	name := ""
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		request, err := unix.NewIfreq("")
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != tunDevice || unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, request) != nil {
			return errors.New("what came is no tap interface")
		}
		had, want := request.Uint16(), uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
		if len(files) > 1 {
			want |= unix.IFF_MULTI_QUEUE
		}
		if had&want != want || name != "" && name != request.Name() {
			return fmt.Errorf("interface %s has flags %#x, wants %#x, and all queues must be of one interface", request.Name(), had, want)
		}
		name = request.Name()
	}
	return nil
}

// letterbox gives QEMU a description for the guest: the end of a connection that
// has it in its buffer, for QEMU's character device, and the other end, which
// QEMU keeps open by having it: if that were closed QEMU would throw away what
// the guest has not read. So a guest finds it whatever becomes of hostagent.
func letterbox(description []byte) ([]*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	files := []*os.File{os.NewFile(uintptr(fds[0]), "description"), os.NewFile(uintptr(fds[1]), "description")}
	if n, err := unix.Write(fds[1], description); err != nil || n != len(description) {
		Close(files)
		return nil, fmt.Errorf("put %d bytes of description into a socket: %d, %w", len(description), n, err)
	}
	return files, nil
}
