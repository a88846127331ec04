// Package sealed defines the sealed record: the one file in the encrypted
// initrd that tells guestinit everything it may believe.
//
// guestinit reads no parameter from a device that it has not authenticated.
// The dm-crypt tables, where volumes are found, the modules and the program to
// hand over to all come from here; the LUKS2 header on the disk is for the
// owner's cryptsetup and is never read in the guest.
//
// The encoding (see codec.go and docs/formats/sealed-record.md) is binary,
// big-endian, bounded and canonical: a record has exactly one encoding, and
// what does not re-encode to the same bytes is refused.
package sealed

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/secexec/secexec/secret"
)

// Limits of a record. They bound what guestinit allocates before it believes
// anything.
const (
	MaxSize    = 64 << 10 // bytes of an encoded record
	MaxModules = 128
	MaxData    = 16  // data volumes
	MaxPath    = 255 // bytes of a path or a module's file name
	KeySize    = 64  // AES-256-XTS: two 256-bit keys
	IDSize     = 16  // image and volume identities
	MaxSerial  = 20  // VIRTIO_BLK_ID_BYTES: what a virtio-blk serial can hold
)

// SectorSize is the only dm-crypt sector size in use, in bytes. dm-crypt
// counts its IV in these units (flag iv_large_sectors is not set: plain64
// counts 512-byte sectors; see rootdisk).
const SectorSize = 4096

// ErrInvalid is wrapped by every error about a record's bytes or values.
var ErrInvalid = errors.New("invalid sealed record")

// Record is the sealed record. Its owner calls Wipe.
type Record struct {
	ImageID      [IDSize]byte // random, made at build; the name of this image in readiness reports
	IdentitySeed secret.Bytes // Ed25519 seed (RFC 8032), 32 bytes: signs readiness reports
	Modules      []Module     // in load order
	Root         Volume
	Data         []DataVolume // in mount order: what is mounted in another comes after it
	Init         string       // absolute path in the root of the program to hand over to
	StopSignal   uint8        // sent to that program on a power-down request; systemd: SIGRTMIN+4 = 38
}

// Module is a kernel module in the initrd.
type Module struct {
	File     string // base name under /modules, such as "03-dm-crypt.ko"
	Optional bool   // a CPU-specific module, which the kernel may refuse with ENODEV
}

// PublicKey returns the key that checks this image's readiness reports.
func (r *Record) PublicKey() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(r.IdentitySeed).Public().(ed25519.PublicKey)
}

// Wipe overwrites the record's secrets.
func (r *Record) Wipe() {
	r.IdentitySeed.Wipe()
	r.Root.Key.Wipe()
	for i := range r.Data {
		r.Data[i].Key.Wipe()
	}
}

// Check reports the first value that no guest could use, wrapped in ErrInvalid.
func (r *Record) Check() error {
	switch {
	case r.ImageID == [IDSize]byte{}:
		return invalid("image id is zero")
	case len(r.IdentitySeed) != ed25519.SeedSize:
		return invalid("identity seed has %d bytes, wants %d", len(r.IdentitySeed), ed25519.SeedSize)
	case len(r.Modules) > MaxModules:
		return invalid("%d modules, at most %d", len(r.Modules), MaxModules)
	case CheckInit(r.Init) != nil:
		return CheckInit(r.Init)
	case r.StopSignal == 0 || r.StopSignal > 64:
		return invalid("stop signal %d is not in 1..64", r.StopSignal)
	}
	if err := r.Root.check("root"); err != nil {
		return err
	}
	if err := r.checkData(); err != nil {
		return err
	}
	seen := make(map[string]bool, len(r.Modules))
	for _, m := range r.Modules {
		if !plainName(m.File) || !strings.HasSuffix(m.File, ".ko") || seen[m.File] {
			return invalid("module file %q is not a unique plain name ending in .ko", m.File)
		}
		seen[m.File] = true
	}
	return nil
}

// CheckInit refuses what may not be a record's Init.
func CheckInit(path string) error {
	if !cleanAbs(path) {
		return invalid("init %q is not a clean absolute path of at most %d bytes", path, MaxPath)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func plainName(s string) bool {
	if s == "" || len(s) > MaxPath || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

func cleanAbs(s string) bool {
	if len(s) < 2 || len(s) > MaxPath || s[0] != '/' {
		return false
	}
	for _, part := range strings.Split(s[1:], "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return false
		}
	}
	return true
}
