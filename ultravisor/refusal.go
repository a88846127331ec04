package ultravisor

import (
	"errors"
	"fmt"

	"github.com/secexec/secexec/seimage"
)

// Command is the ultravisor command that failed, as DIAGNOSE 0x308 reports it
// (Linux: enum pv_cmd_id).
type Command uint16

// Commands in the order in which an image passes them.
const (
	CommandNone          Command = 0 // refused before any command: the IPIB
	CommandSetParameters Command = 2 // set secure configuration parameters: the SE header
	CommandUnpack        Command = 3 // the pages
	CommandVerify        Command = 4 // the digests
)

// Return codes of DIAGNOSE 0x308 (QEMU: hw/s390x/ipl.h).
const (
	diagOK       = 0x0001
	diagInvalid  = 0x0402 // the IPIB is invalid
	diagNoPVConf = 0x0902 // unpack before an IPIB was set
	diagRefused  = 0x0a02 // the ultravisor refused
)

// Return codes (rc) of ultravisor calls.
const (
	rcLength  = 0x0005 // a page is not there
	rcVerify  = 0x0102
	rcVersion = 0x0104
	rcPCF     = 0x0106
	rcHostKey = 0x0108
	rcSCF     = 0x0109
	rcHeader  = 0x010a
)

// Return reason codes (rrc), each under the rc that it belongs to (s390-tools:
// rust/pvimg/boot/stage3a.c).
const (
	rrcALD = 0x1a // rcVerify
	rrcPLD = 0x1b
	rrcTLD = 0x1c
	rrcNEP = 0x1d

	rrcVersion = 0x01 // rcVersion

	rrcPCF = 0x30 // rcPCF

	rrcSCF = 0x00 // rcSCF

	rrcNoSlot    = 0x05 // rcHostKey
	rrcBadKey    = 0x0b
	rrcBackupKey = 0x34

	rrcSize    = 0x31 // rcHeader
	rrcSEA     = 0x39
	rrcNoSlots = 0x40
)

// Refusal says that firmware would not start this image. stage3a prints the
// same codes.
type Refusal struct {
	Command Command
	RC, RRC uint16 // of the ultravisor call, 0 where none was made
	Diag    uint16 // DIAGNOSE 0x308's own return code
	Words   string // a sentence for people, without names or values of the image's

	cause error
}

func (r *Refusal) Error() string {
	if r.Command == CommandNone {
		return fmt.Sprintf("ultravisor refuses the image: %s (diag 0x%04x)", r.Words, r.Diag)
	}
	return fmt.Sprintf("ultravisor refuses the image: %s (command %d, rc 0x%04x, rrc 0x%04x)", r.Words, r.Command, r.RC, r.RRC)
}

// Unwrap returns the sentinel of package seimage behind the refusal, if any.
func (r *Refusal) Unwrap() error { return r.cause }

// Result is what the register after DIAGNOSE's first operand then holds:
// command, rrc, rc and DIAGNOSE's return code, 16 bits each.
func (r *Refusal) Result() uint64 {
	return uint64(r.Command)<<48 | uint64(r.RRC)<<32 | uint64(r.RC)<<16 | uint64(r.Diag)
}

func refuse(c Command, rc, rrc uint16, words string) *Refusal {
	return &Refusal{Command: c, RC: rc, RRC: rrc, Diag: diagRefused, Words: words}
}

// refuseIPIB says what DIAGNOSE finds before any ultravisor call is made.
func refuseIPIB(err error) *Refusal {
	return &Refusal{Diag: diagInvalid, Words: err.Error(), cause: err}
}

// headerErrors is what package seimage finds in SE headers, in firmware's codes.
var headerErrors = []struct {
	err     error
	rc, rrc uint16
	words   string
}{
	{seimage.ErrHeaderMagic, rcHeader, 0, "there is no SE header"},
	{seimage.ErrHeaderVersion, rcVersion, rrcVersion, "the SE header's version is not supported"},
	{seimage.ErrHeaderSize, rcHeader, rrcSize, "the SE header's size is wrong"},
	{seimage.ErrEncryptedSize, rcHeader, rrcSEA, "the SE header's encrypted area has a wrong size"},
	{seimage.ErrNoSlots, rcHeader, rrcNoSlots, "the SE header has no key slot"},
	{seimage.ErrReserved, rcHeader, 0, "the SE header has reserved bytes that are not zero"},
	{seimage.ErrNoSlotForHost, rcHostKey, rrcNoSlot, "the image has no key slot for this host"},
	{seimage.ErrCustomerKey, rcHostKey, rrcBadKey, "the customer public key is invalid"},
	{seimage.ErrSlotTag, rcHostKey, 0, "this host's key slot was changed"},
	{seimage.ErrHeaderTag, rcHeader, 0, "the SE header was changed"},
	{seimage.ErrOptionalItems, rcHeader, rrcSEA, "the SE header has optional items, which the stand-in does not know"},
}

// refuseHeader puts an error about an SE header into firmware's codes; nil if
// it is about something else.
func refuseHeader(err error) *Refusal {
	for _, h := range headerErrors {
		if errors.Is(err, h.err) {
			r := refuse(CommandSetParameters, h.rc, h.rrc, h.words)
			r.cause = err
			return r
		}
	}
	return nil
}
