package ultravisor

import "fmt"

// Command is the ultravisor command that failed, as DIAGNOSE 0x308 reports it
// (QEMU: hw/s390x/ipl.h).
type Command uint16

// Commands in the order in which an image passes them.
const (
	CommandNone          Command = 0 // refused before any command: the IPIB
	CommandSetParameters Command = 2 // set secure configuration parameters: the SE header
	CommandUnpack        Command = 3
	CommandVerify        Command = 4 // digests
)

// Return codes of DIAGNOSE 0x308.
const (
	diagOK         = 0x0001
	diagInvalid    = 0x0402 // the IPIB is invalid
	diagNoPVConf   = 0x0902 // unpack without parameters
	diagInvalForPV = 0x0a02 // the ultravisor refused
)

// Return codes (rc) and reason codes (rrc) of the ultravisor.
const (
	rcLength   = 0x0005
	rcVerify   = 0x0102
	rcVersion  = 0x0104
	rcPCF      = 0x0106
	rcHostKey  = 0x0108
	rcSCF      = 0x0109
	rcHeader   = 0x010a
	rrcALD     = 0x1a
	rrcPLD     = 0x1b
	rrcTLD     = 0x1c
	rrcNEP     = 0x1d
	rrcPCF     = 0x30
	rrcNoSlot  = 0x05
	rrcBadKey  = 0x0b
	rrcSize    = 0x31
	rrcSEA     = 0x39
	rrcNoSlots = 0x40
)

// Refusal says that firmware would not start this image. stage3a prints the
// same codes.
type Refusal struct {
	Command Command
	RC, RRC uint16
	diag    uint16
	Words   string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("ultravisor refuses the image: %s (command %d, rc 0x%04x, rrc 0x%04x)", r.Words, r.Command, r.RC, r.RRC)
}

// Result is what the register after DIAGNOSE's first operand then holds:
// command, rrc, rc and DIAGNOSE's return code, 16 bits each.
func (r *Refusal) Result() uint64 {
	return uint64(r.Command)<<48 | uint64(r.RRC)<<32 | uint64(r.RC)<<16 | uint64(r.diag)
}

func refuse(c Command, rc, rrc uint16, words string) *Refusal {
	return &Refusal{Command: c, RC: rc, RRC: rrc, diag: diagInvalForPV, Words: words}
}
