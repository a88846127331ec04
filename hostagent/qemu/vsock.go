package qemu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
)

// VsockPort is the vsock port that a guest serves the owner's channel on.
const VsockPort = 7301

// VsockDevice is the node's device that gives guests vsock addresses.
const VsockDevice = "/dev/vhost-vsock"

// Bounds of the addresses (CIDs) that are given to guests. 0 to 2 are the
// hypervisor, the machine itself and the host; small ones are left to those who
// number their guests by hand, and libvirt, which counts up from 3.
const (
	firstCID = 1 << 16
	lastCID  = 1<<31 - 1
	tryCIDs  = 100 // addresses before giving up: about as many as are taken by chance never
)

// ErrNoCID says that each address that was tried is another guest's.
var ErrNoCID = errors.New("no vsock address is free")

// Vsock is this node's vsock.
type Vsock struct{}

// Open opens VsockDevice for a guest and gives it an address that no other
// guest of the node has. The descriptor goes to the guest's QEMU ([Config].Vhost);
// the kernel takes the address back when the last copy of it is closed. The error
// wraps os.ErrNotExist where the node has no such device.
func (Vsock) Open() (*os.File, uint32, error) {
	f, err := os.OpenFile(VsockDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open vsock device: %w", err)
	}
	cid, err := allocate(func(cid uint32) error { return setCID(f, cid) }, rand.N[uint32])
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, cid, nil
}

// allocate finds an address that is free. At random: a guest's address is not
// the next guest's at once, when somebody may still be connecting to it.
func allocate(set func(cid uint32) error, random func(n uint32) uint32) (uint32, error) {
	for range tryCIDs {
		cid := firstCID + random(lastCID-firstCID+1)
		err := set(cid)
		if err == nil {
			return cid, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, fmt.Errorf("give guest the vsock address %d: %w", cid, err)
		}
	}
	return 0, fmt.Errorf("%w: %d were tried", ErrNoCID, tryCIDs)
}

// vsock is the device that the owner's channel goes by, over the kernel's vhost:
// QEMU sees none of its bytes.
func vsockDevice(c *Config) []string {
	if c.CID == 0 {
		return nil
	}
	return virtio("vhost-vsock-ccw", "vsock0", DevnoVsock, member{"guest-cid", c.CID}, member{"vhostfd", strconv.Itoa(c.vhostFD)})
}
