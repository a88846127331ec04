// Package sealed defines the sealed record: the one file in the encrypted
// initrd that tells guestinit everything it may believe.
//
// guestinit reads no parameter from a device that it has not authenticated.
// The device-mapper tables, where volumes are found, the modules, what to run
// and who may talk to the guest all come from here; the LUKS2 header on the disk
// is for the owner's cryptsetup and is never read in the guest.
//
// The encoding (see encoding.go and docs/formats/sealed-record.md) is binary,
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
	MaxData    = 16   // data volumes
	MaxPath    = 255  // bytes of a path or a module's file name
	MaxText    = 4096 // bytes of an argument, a variable of the environment, a value
	IDSize     = 16   // image and volume identities
	SeedSize   = 32   // identity and entropy seed
	MaxSerial  = 20   // VIRTIO_BLK_ID_BYTES: what a virtio-blk serial can hold
)

// SectorSize is the only sector size in use, in bytes: dm-crypt's, and the
// blocks of dm-integrity and dm-verity. dm-crypt counts its IV in 512-byte
// sectors all the same (plain64 without iv_large_sectors; see rootdisk).
const SectorSize = 4096

// ErrInvalid is wrapped by every error about a record's bytes or values.
var ErrInvalid = errors.New("invalid sealed record")

// Record is the sealed record. Its owner calls Wipe.
type Record struct {
	ImageID      [IDSize]byte // random, made at build; the name of this image in readiness reports
	IdentitySeed secret.Bytes // Ed25519 seed (RFC 8032), SeedSize bytes: signs readiness reports
	EntropySeed  secret.Bytes // SeedSize random bytes: goes into the kernel's pool beside what the CPU gives

	Modules   []Module // in load order
	Hardening Hardening

	Root    Volume
	Overlay *Overlay     // writable layer over a read-only root; nil: none
	Data    []DataVolume // in mount order: what is mounted in another comes after it
	Swap    *Volume      // with a fresh key; nil: none

	Exec     *Exec     // hand over to the root's own init; either this
	Workload *Workload // or stay PID 1 and run the root's one program

	Ready   Ready    // when the guest counts as ready
	Channel *Channel // the owner's channel; nil: there is none
}

// Module is a kernel module in the initrd.
type Module struct {
	File     string // base name under /modules, such as "03-dm-crypt.ko"
	Optional bool   // a CPU-specific module, which the kernel may refuse with ENODEV
}

// Exec is a hand-over to the root's init: systemd, OpenRC, anything.
type Exec struct {
	Init       string // absolute path in the root of the program that becomes PID 1
	StopSignal uint8  // sent to it on a power-down request; systemd: SIGRTMIN+4 = 38
}

// Ready says when a guest counts as ready.
type Ready uint8

// When a guest is ready.
const (
	ReadyAtHandover Ready = 0 // its init or its program runs
	ReadyAtNotify   Ready = 1 // the workload said READY=1 on its notification socket
)

// PublicKey returns the key that checks this image's readiness reports.
func (r *Record) PublicKey() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(r.IdentitySeed).Public().(ed25519.PublicKey)
}

// Wipe overwrites the record's secrets.
func (r *Record) Wipe() {
	r.IdentitySeed.Wipe()
	r.EntropySeed.Wipe()
	for _, v := range r.volumes() {
		v.Key.Wipe()
	}
}

// volumes are all volumes: the root first, then the overlay's, data, swap.
func (r *Record) volumes() []*Volume {
	all := []*Volume{&r.Root}
	if r.Overlay != nil && r.Overlay.Volume != nil {
		all = append(all, r.Overlay.Volume)
	}
	for i := range r.Data {
		all = append(all, &r.Data[i].Volume)
	}
	if r.Swap != nil {
		all = append(all, r.Swap)
	}
	return all
}

// Check reports the first value that no guest could use, wrapped in ErrInvalid.
func (r *Record) Check() error {
	switch {
	case r.ImageID == [IDSize]byte{}:
		return invalid("image id is zero")
	case len(r.IdentitySeed) != SeedSize:
		return invalid("identity seed has %d bytes, wants %d", len(r.IdentitySeed), SeedSize)
	case len(r.EntropySeed) != SeedSize:
		return invalid("entropy seed has %d bytes, wants %d", len(r.EntropySeed), SeedSize)
	case (r.Exec == nil) == (r.Workload == nil):
		return invalid("a guest either hands over to an init or runs a workload")
	case r.Ready > ReadyAtNotify:
		return invalid("ready at %d, wants 0 or 1", r.Ready)
	}
	for _, check := range []func() error{r.checkModules, r.Hardening.check, r.checkVolumes, r.Exec.check, r.Workload.Check, r.Channel.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Record) checkModules() error {
	if len(r.Modules) > MaxModules {
		return invalid("%d modules, at most %d", len(r.Modules), MaxModules)
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

func (e *Exec) check() error {
	if e == nil {
		return nil
	}
	if err := CheckInit(e.Init); err != nil {
		return err
	}
	return checkSignal(e.StopSignal)
}

func checkSignal(n uint8) error {
	if n == 0 || n > 64 {
		return invalid("stop signal %d is not in 1..64", n)
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
