// Package luks2 writes, reads and opens LUKS2 headers (LUKS2 On-Disk Format
// Specification 1.1) of disks with one crypt segment, on any machine and
// without a device-mapper. What it writes, stock cryptsetup opens.
//
// A header is two copies of a binary part and a JSON area, followed by the key
// slots' areas. Nothing in it is authenticated: it is for the owner. No guest
// believes it.
package luks2

import (
	"errors"
	"fmt"

	"github.com/secexec/secexec/secret"
)

// Layout of the disks that Write makes: binary header and JSON area, their
// second copy, the key slots' areas, nothing up to 16 MiB, where cryptsetup
// puts the payload too.
const (
	binarySize    = 4096
	headerSize    = 16 << 10 // binary header and JSON area
	slotsOffset   = 2 * headerSize
	stripes       = 4000
	PayloadOffset = 16 << 20
	maxHeaderSize = 4 << 20 // the largest that the specification allows
)

// Sizes and counts.
const (
	KeySize          = 64           // bytes of a volume key: AES-256-XTS
	IntegrityKeySize = KeySize + 32 // and HMAC-SHA-256's behind it
	MaxSlots         = 8            // key slots that Write makes
	MaxLabel         = 47           // bytes of a label
	SectorSize       = 4096
	ivSector         = 512 // bytes that the plain64 IV counts, whatever the sector size
)

// What Write uses and Unlock takes.
const (
	Encryption = "aes-xts-plain64"
	Integrity  = "hmac(sha256)" // of the payload, as cryptsetup's --integrity hmac-sha256 writes it
)

// Errors.
var (
	ErrHeader  = errors.New("no valid LUKS2 header")
	ErrKey     = errors.New("key does not open the disk")
	ErrOptions = errors.New("LUKS2 header can't be made so")
	// ErrUnsupported says that cryptsetup may open a disk that this package won't.
	ErrUnsupported = errors.New("LUKS2 disk is of a kind that only cryptsetup opens")
)

// Slot is a key slot to make.
type Slot struct {
	Passphrase secret.Bytes // pass phrase, or what a key file holds; up to 8 MiB
	KDF        KDF
}

// Layout says what a header describes.
type Layout struct {
	ID    [16]byte // UUID
	Label string
	Size  int64 // bytes of payload, which starts at PayloadOffset
	// Integrity says that the payload is a dm-integrity device with dm-crypt's
	// tags in it. How much data it gives is said by dm-integrity's superblock.
	Integrity bool
}

func (l *Layout) keySize() int {
	if l.Integrity {
		return IntegrityKeySize
	}
	return KeySize
}

// slotSize is the size of a key slot's area in bytes.
func slotSize(keySize int) int {
	return (keySize*stripes + binarySize - 1) / binarySize * binarySize
}

func (l *Layout) check(slots []Slot) error {
	switch {
	case len(slots) == 0 || len(slots) > MaxSlots:
		return fmt.Errorf("%w: it has %d key slots, wants 1 to %d", ErrOptions, len(slots), MaxSlots)
	case len(l.Label) > MaxLabel || !printable(l.Label):
		return fmt.Errorf("%w: label %.80q: it may have up to %d printable ASCII characters", ErrOptions, l.Label, MaxLabel)
	case l.Size <= 0 || l.Size%SectorSize != 0:
		return fmt.Errorf("%w: payload of %d bytes is no multiple of %d", ErrOptions, l.Size, SectorSize)
	}
	for i := range slots {
		if err := slots[i].KDF.check(); err != nil {
			return err
		}
		if n := len(slots[i].Passphrase); n == 0 || n > 8<<20 {
			return fmt.Errorf("%w: pass phrase of key slot %d has %d bytes, wants 1 to 8 Mi", ErrOptions, i, n)
		}
	}
	return nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
