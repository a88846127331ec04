package qemu

import (
	"context"
	"net"
	"os"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// setGuestCID is VHOST_VSOCK_SET_GUEST_CID of <linux/vhost.h>: _IOW(0xaf, 0x60, __u64).
const setGuestCID = 0x4008af60

// setCID gives the guest of an open vsock device its address.
func setCID(f *os.File, cid uint32) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	wide := uint64(cid)
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, setGuestCID, uintptr(unsafe.Pointer(&wide)))
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("VHOST_VSOCK_SET_GUEST_CID", errno)
	}
	return err
}

// Dial connects to where the guest of this address serves the owner's
// channel. A guest whose kernel does not speak vsock answers nothing: the kernel
// waits for 2 s, or as long as the context lives if that is less.
func (Vsock) Dial(ctx context.Context, cid uint32) (net.Conn, error) {
	return vsock.DialContext(ctx, cid, VsockPort, nil)
}
