package seimage

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage/bootloader"
)

// MinSeedSize is the least size of a seed, in bytes.
const MinSeedSize = 32

// ErrSeed is wrapped by every error about a seed and what it asks of inputs.
var ErrSeed = errors.New("image can't be made from a seed")

// entropy gives the bytes that Create needs, each kind under its own label.
type entropy interface {
	bytes(label string, n int) secret.Bytes
}

type random struct{}

func (random) bytes(_ string, n int) secret.Bytes { return secret.Random(n) }

// seeded derives bytes from the pseudo-random key of HKDF-SHA-512 whose input
// is the seed and whose salt is the digest over all inputs.
// docs/formats/se-image.md has the derivation.
type seeded struct{ prk secret.Bytes }

const seedLabel = "secexec image v1 "

func (s *seeded) bytes(label string, n int) secret.Bytes {
	b, err := hkdf.Expand(sha512.New, s.prk, seedLabel+label, n)
	if err != nil {
		panic(err) // only for lengths over 255 hashes
	}
	return b
}

// inputDigests are the SHA-256 of kernel and initrd at their first reading.
// The second one, which encrypts them, must give the same bytes: or two
// contents would meet under one key.
type inputDigests struct{ kernel, initrd []byte }

func (d *inputDigests) watch(kernel, initrd *component) {
	kernel.want, kernel.sum = d.kernel, sha256.New()
	initrd.want, initrd.sum = d.initrd, sha256.New()
}

// seeded reads all inputs once and returns what is derived from them.
func (spec *Spec) seeded(ctx context.Context, pcf Flags, hosts []*ecdh.PublicKey) (*seeded, *inputDigests, error) {
	if len(spec.Seed) < MinSeedSize {
		return nil, nil, fmt.Errorf("%w: the seed has %d bytes, wants at least %d", ErrSeed, len(spec.Seed), MinSeedSize)
	}
	// Before hours are spent on reading what is too large.
	if spec.Kernel.Size > MaxKernelSize {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrKernel, spec.Kernel.Size, MaxKernelSize)
	}
	if spec.Initrd.Size > MaxInitrdSize {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInitrd, spec.Initrd.Size, int64(MaxInitrdSize))
	}
	var d inputDigests
	var err error
	if d.kernel, err = sourceDigest(ctx, "kernel", spec.Kernel); err != nil {
		return nil, nil, err
	}
	if d.initrd, err = sourceDigest(ctx, "initrd", spec.Initrd); err != nil {
		return nil, nil, err
	}
	salt, err := spec.inputDigest(&d, pcf, hosts)
	if err != nil {
		return nil, nil, err
	}
	prk, err := hkdf.Extract(sha512.New, spec.Seed, salt)
	if err != nil {
		return nil, nil, fmt.Errorf("derive keys: %w", err)
	}
	return &seeded{prk}, &d, nil
}

// inputDigest is SHA-512 over every input in a form that no two sets of inputs
// share: each item has a fixed size.
func (spec *Spec) inputDigest(d *inputDigests, pcf Flags, hosts []*ecdh.PublicKey) ([]byte, error) {
	be := binary.BigEndian
	b := []byte(seedLabel + "inputs")
	item := func(data []byte) {
		sum := sha256.Sum256(data)
		b = append(be.AppendUint64(b, uint64(len(data))), sum[:]...)
	}
	b = append(be.AppendUint64(b, uint64(spec.Kernel.Size)), d.kernel...)
	b = append(be.AppendUint64(b, uint64(spec.Initrd.Size)), d.initrd...)
	item(spec.Cmdline)
	item(bootloader.Stage3a(bootloader.Stage3aArgs{}))
	item(bootloader.Stage3b(bootloader.Stage3bArgs{}))
	b = be.AppendUint64(b, uint64(pcf))
	b = be.AppendUint64(b, uint64(spec.SCF))
	start := uint64(1) // odd, so no start address
	if spec.PSWAddr != nil {
		start = *spec.PSWAddr
	}
	b = be.AppendUint64(b, start)
	item(spec.HeaderKey)
	item(spec.ImageKey)
	item(spec.CommKey)
	b = be.AppendUint64(b, uint64(len(hosts)))
	for _, host := range hosts {
		hash, err := hostkey.Hash(host)
		if err != nil {
			return nil, fmt.Errorf("derive keys: %w", err)
		}
		b = append(b, hash[:]...)
	}
	sum := sha512.Sum512(b)
	return sum[:], nil
}

// sourceDigest reads a source up to its size and puts it back.
func sourceDigest(ctx context.Context, name string, src Source) ([]byte, error) {
	h := sha256.New()
	if src.R == nil {
		return h.Sum(nil), nil
	}
	seeker, ok := src.R.(io.Seeker)
	if !ok || src.Size == Unsized {
		return nil, fmt.Errorf("%w: %s is a pipe, and is read twice: give a file", ErrSeed, name)
	}
	at, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is read twice: %w", ErrSeed, name, err)
	}
	if err := digestFrom(ctx, h, src); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if _, err := seeker.Seek(at, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return h.Sum(nil), nil
}

func digestFrom(ctx context.Context, h hash.Hash, src Source) error {
	buf := make([]byte, chunkSize)
	defer clear(buf)
	for left := src.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(src.R, buf[:min(left, chunkSize)])
		h.Write(buf[:n])
		if left -= int64(n); err != nil {
			return fmt.Errorf("%w: it ends %d bytes early: %w", ErrSource, left, err)
		}
	}
	return nil
}
