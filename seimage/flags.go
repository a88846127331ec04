package seimage

import (
	"errors"
	"fmt"
	"strings"
)

// Flags are the plain-text control flags (PCF). Bits are numbered from the
// most significant, as in the field's documents.
type Flags uint64

// Plain-text control flags that this version of the format knows.
const (
	AllowDump    Flags = 1 << (63 - 34) // PV dump by the host
	NoEncryption Flags = 1 << (63 - 35) // components in plain text
	PCKMODEA     Flags = 1 << (63 - 56) // PCKMO encrypt DEA and TDEA keys
	PCKMOAES     Flags = 1 << (63 - 57)
	PCKMOECC     Flags = 1 << (63 - 58)
	PCKMOHMAC    Flags = 1 << (63 - 59)
	BackupKeys   Flags = 1 << (63 - 62) // backup target keys

	KnownFlags = AllowDump | NoEncryption | PCKMODEA | PCKMOAES | PCKMOECC | PCKMOHMAC | BackupKeys
	// DefaultFlags are those of pvimg create.
	DefaultFlags = PCKMODEA | PCKMOAES | PCKMOECC
)

// SecretFlags are the secret control flags (SCF).
type SecretFlags uint64

// Secret control flags that this version of the format knows.
const (
	CCKExtensionSecret SecretFlags = 1 << (63 - 1) // extension secret enforced
	CCKUpdate          SecretFlags = 1 << (63 - 2) // z17

	KnownSecretFlags = CCKExtensionSecret | CCKUpdate
)

// ErrFlags says that no machine would take these control flags.
var ErrFlags = errors.New("control flags that no machine takes")

// CheckFlags reports flag combinations that firmware refuses or that make no
// sense; ownCommKey tells whether the owner chose the communication key.
func CheckFlags(pcf Flags, scf SecretFlags, ownCommKey bool) error {
	switch {
	case pcf&^KnownFlags != 0:
		return fmt.Errorf("%w: unknown PCF bits 0x%x", ErrFlags, uint64(pcf&^KnownFlags))
	case scf&^KnownSecretFlags != 0:
		return fmt.Errorf("%w: unknown SCF bits 0x%x", ErrFlags, uint64(scf&^KnownSecretFlags))
	case scf == KnownSecretFlags:
		return fmt.Errorf("%w: an enforced extension secret excludes updates of the communication key", ErrFlags)
	case scf&CCKExtensionSecret != 0 && !ownCommKey:
		return fmt.Errorf("%w: an enforced extension secret needs a communication key of yours", ErrFlags)
	case pcf&AllowDump != 0 && !ownCommKey && scf&CCKUpdate == 0:
		return fmt.Errorf("%w: dump needs a communication key of yours, or nobody could read the dump", ErrFlags)
	}
	return nil
}

// checkFlags adds to CheckFlags what the keys given make of the flags.
func (spec *Spec) checkFlags(pcf Flags) error {
	if pcf&NoEncryption != 0 && spec.ImageKey != nil {
		return fmt.Errorf("%w: an image key for components that stay in plain text", ErrFlags)
	}
	if spec.PSWAddr != nil && *spec.PSWAddr%2 != 0 {
		return fmt.Errorf("%w: 0x%x is odd, instructions stand at even addresses", ErrPSW, *spec.PSWAddr)
	}
	return CheckFlags(pcf, spec.SCF, spec.CommKey != nil)
}

// String lists the set flags' names.
func (f Flags) String() string {
	var names []string
	for _, n := range []struct {
		flag Flags
		name string
	}{
		{AllowDump, "dump"}, {NoEncryption, "no-component-encryption"}, {PCKMODEA, "pckmo-dea"}, {PCKMOAES, "pckmo-aes"},
		{PCKMOECC, "pckmo-ecc"}, {PCKMOHMAC, "pckmo-hmac"}, {BackupKeys, "backup-keys"},
	} {
		if f&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	if rest := f &^ KnownFlags; rest != 0 {
		names = append(names, fmt.Sprintf("unknown-0x%x", uint64(rest)))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}
