package luks2

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"github.com/secexec/secexec/secret"
	"golang.org/x/crypto/argon2"
)

// KDF says how a key slot stretches its pass phrase. The zero value is
// Argon2id with the default cost.
type KDF struct {
	Type       string // argon2id (or ""), argon2i, pbkdf2
	Memory     int    // KiB, for Argon2; 0: DefaultMemory
	Time       int    // passes over the memory, for Argon2; 0: DefaultTime
	CPUs       int    // lanes, for Argon2; 0: DefaultCPUs
	Iterations int    // for PBKDF2 with SHA-256; 0: DefaultIterations
}

// Costs. cryptsetup measures the machine and aims at 2 s, at most 1 GiB and 4
// lanes; a fixed cost makes disks that open alike wherever they were made, also
// on small machines. RFC 9106's second choice is 64 MiB and 3 passes.
const (
	DefaultMemory     = 256 << 10
	DefaultTime       = 4
	DefaultCPUs       = 4
	DefaultIterations = 2_000_000
	MinIterations     = 1000    // the least that cryptsetup takes
	MaxMemory         = 1 << 20 // KiB: what cryptsetup uses at most by default
	minMemory         = 32
)

// Bounds of what a header may ask of Unlock: minutes, not days.
const (
	maxIterations = 100_000_000
	maxPasses     = 64 << 20 // KiB, memory times passes
)

// RandomKey is the KDF for key files of 32 random bytes or more: stretching
// them would add nothing.
var RandomKey = KDF{Type: "pbkdf2", Iterations: MinIterations}

func (k KDF) withDefaults() KDF {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	if k.Type == "" {
		k.Type = "argon2id"
	}
	if k.Type == "pbkdf2" {
		set(&k.Iterations, DefaultIterations)
		return k
	}
	set(&k.Memory, DefaultMemory)
	set(&k.Time, DefaultTime)
	set(&k.CPUs, DefaultCPUs)
	return k
}

// check refuses costs that cryptsetup or Unlock would refuse.
func (k KDF) check() error {
	k = k.withDefaults()
	switch {
	case k.Type == "pbkdf2" && k.Memory|k.Time|k.CPUs != 0:
		return fmt.Errorf("%w: memory, passes and lanes are for argon2id, not for pbkdf2", ErrOptions)
	case k.Type == "pbkdf2" && (k.Iterations < MinIterations || k.Iterations > maxIterations):
		return fmt.Errorf("%w: pbkdf2 with %d iterations, wants %d to %d", ErrOptions, k.Iterations, MinIterations, maxIterations)
	case k.Type == "pbkdf2":
		return nil
	case k.Type != "argon2id" && k.Type != "argon2i":
		return fmt.Errorf("%w: key derivation %.40q, wants argon2id or pbkdf2", ErrOptions, k.Type)
	case k.Iterations != 0:
		return fmt.Errorf("%w: iterations are for pbkdf2, not for %s", ErrOptions, k.Type)
	case k.Memory < minMemory || k.Memory > MaxMemory:
		return fmt.Errorf("%w: %s with %d KiB of memory, wants %d to %d", ErrOptions, k.Type, k.Memory, minMemory, MaxMemory)
	case k.Time < 1 || k.CPUs < 1 || k.CPUs > 4 || k.Memory < 8*k.CPUs || int64(k.Memory)*int64(k.Time) > maxPasses:
		return fmt.Errorf("%w: %s with %d passes and %d lanes", ErrOptions, k.Type, k.Time, k.CPUs)
	}
	return nil
}

// derive derives a key slot's key.
func (j *jsonKDF) derive(passphrase secret.Bytes, size int) (secret.Bytes, error) {
	switch j.Type {
	case "argon2id":
		return argon2.IDKey(passphrase, j.Salt, uint32(j.Time), uint32(j.Memory), uint8(j.CPUs), uint32(size)), nil
	case "argon2i":
		return argon2.Key(passphrase, j.Salt, uint32(j.Time), uint32(j.Memory), uint8(j.CPUs), uint32(size)), nil
	}
	h, ok := hashes[j.Hash]
	if !ok {
		return nil, fmt.Errorf("%w: hash %.40q", ErrUnsupported, j.Hash)
	}
	return pbkdf2(h, passphrase, j.Salt, j.Iterations, size), nil
}

var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}
