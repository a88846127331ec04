package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/guestinit/progress"
)

// Where guestagent serves the owner's channel. Package channel of proto has the
// names, too; it brings TLS, and PID 1 has none.
const (
	channelPort = "org.secexec.channel.0" // virtio-serial
	vsockPort   = 7301
)

// channelBacklog is how many of the host's connections may wait: one is served at
// a time.
const channelBacklog = 4

// virtioDevices is where the kernel shows virtio devices, whether it has a driver
// for them or not; vsockDevice is a vsock's ID (virtio 1.2, 5).
const (
	virtioDevices = "/sys/bus/virtio/devices"
	vsockDevice   = "0x0013"
)

// isVsock tells whether a module of the initrd is of vsock, which is nobody's
// dependency. Such modules wait until the device is there: most of a start is
// loading modules, and where the host gives no vsock the port serves.
func isVsock(file string) bool { return strings.Contains(file, "vsock") }

// hasDevice tells whether a folder of virtio devices has one of this ID.
func hasDevice(dir, id string) bool {
	found, _ := filepath.Glob(dir + "/*/device")
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == id {
			return true
		}
	}
	return false
}

// channelFiles are what guestagent serves the owner by. A device that the host
// does not give is -1: it can always cut the channel.
type channelFiles struct {
	port    int // virtio-serial port
	vsock   int // listening socket
	secrets int // folder of delivered secrets
}

func openChannel() (c channelFiles, err error) {
	if c.port, err = progress.OpenPort(channelPort); err != nil {
		c.port = -1
	}
	if c.vsock, err = listenVsock(); err != nil {
		c.vsock = -1
	}
	// A mount of guestagent's own, in no folder: the root's init can unmount its
	// own at shutdown.
	c.secrets, err = unix.OpenTree(unix.AT_FDCWD, mounts.SecretsPath, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		err = fmt.Errorf("open folder of secrets: %w", err)
	}
	return c, err
}

func (c channelFiles) close() {
	for _, fd := range []int{c.port, c.vsock, c.secrets} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// listenVsock listens for the host where the kernel has vsock. Whatever address
// the host gives this guest is right, now or later.
func listenVsock() (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("listen for the channel: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: vsockPort}); err == nil {
		err = unix.Listen(fd, channelBacklog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen for the channel: %w", err)
	}
	return fd, nil
}
