package owner

import (
	"errors"

	"github.com/secexec/secexec/sealed"
)

// Devices are the kinds that the guest has drivers for beyond virtio-blk and
// virtio-serial. Each costs time at every start, and what has no driver the host
// can't talk to. A root that brings modules of its own may load more.
type Devices struct {
	SCSI      bool // disks on virtio-scsi; a bootable disk is always taken from there, too
	NoNetwork bool // for a root with an init of its own: no virtio-net. A workload has its own word for it
}

// check refuses a network without a device.
func (d Devices) check(w *sealed.Workload) error {
	if d.NoNetwork && w != nil && w.Network != nil {
		return errors.New("plan devices: the workload has a network, and no_network takes its device away: give the workload network mode none instead")
	}
	return nil
}

// hasNetwork tells whether the guest is to have the driver of virtio-net: who
// runs it attaches the network.
func (p *Plan) hasNetwork(w *sealed.Workload) bool {
	if w != nil {
		return w.Network != nil
	}
	return !p.Devices.NoNetwork
}
