package platform

import (
	"encoding/json"
	"fmt"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Addresses of the disabled-wait PSWs by which the boot loader's two stages say
// why they stop. The console says more.
const (
	waitNoUnpack   = 0x4607
	waitRefused    = 0x4608
	waitStage3bBad = 0x4511
)

// panicked is the data of QEMU's event GUEST_PANICKED for an s390x guest.
type panicked struct {
	Info struct {
		Type    string `json:"type"`
		Reason  string `json:"reason"`
		PSWAddr uint64 `json:"psw-addr"`
	} `json:"info"`
}

// PanicWords says in words why a guest's CPU stopped for good; false if the
// event is not QEMU's GUEST_PANICKED of an s390x guest. It is a hint: a guest
// past its boot loader can stop with any address, and a secure guest's address is
// not seen at all.
func PanicWords(e qemu.Event) (string, bool) {
	if e.Name != "GUEST_PANICKED" {
		return "", false
	}
	var p panicked
	if err := json.Unmarshal(e.Data, &p); err != nil || p.Info.Type != "s390" {
		return "", false
	}
	switch {
	case p.Info.Reason != "disabled-wait":
		return fmt.Sprintf("the guest's CPU stopped (%s)", oneLine(p.Info.Reason)), true
	case p.Info.PSWAddr == waitNoUnpack:
		return "the boot loader found no unpack facility: this machine or CPU model cannot run secure guests", true
	case p.Info.PSWAddr == waitRefused:
		return "the ultravisor refused the image; the console says why", true
	case p.Info.PSWAddr == waitStage3bBad:
		return "the boot loader found the unpacked kernel, initrd or command line unfit", true
	}
	return fmt.Sprintf("the guest's CPU stopped for good (disabled wait at 0x%x), as a kernel does that panicked", p.Info.PSWAddr), true
}
