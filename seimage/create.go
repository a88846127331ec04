package seimage

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage/bootloader"
	"github.com/secexec/secexec/xts"
)

// Source is a stream. Create reads it from where it stands.
type Source struct {
	R    io.Reader
	Size int64 // bytes; Unsized: up to its end; 0 and a nil R: absent
}

// Unsized is the Size of a stream whose length shows at its end, such as a pipe.
const Unsized = -1

// Spec says what to seal.
type Spec struct {
	Kernel  Source // raw s390x Linux image
	Initrd  Source // may be absent
	Cmdline []byte
	Hosts   []*ecdsa.PublicKey // on P-521, a key slot for each, at most MaxSlots

	// Keys of the caller's; nil ones are made at random. Create only reads them.
	HeaderKey secret.Bytes // HeaderKeySize
	ImageKey  secret.Bytes // ImageKeySize
	CommKey   secret.Bytes // CommKeySize

	PCF *Flags // nil: DefaultFlags
	SCF SecretFlags

	// Seed makes the image reproducible: what would be random is derived from
	// it and from a digest over all the rest of the Spec. At least MinSeedSize
	// bytes; nil: random. Sources must be seekable and sized then.
	Seed secret.Bytes

	PSWAddr  *uint64           // where the unpacked guest starts; nil: in stage3b, which starts the kernel
	NoCheck  bool              // take a kernel that does not look like one
	Progress func(bytes int64) // called now and then with the component bytes done
}

// Summary is what Create made.
type Summary struct {
	Size       int64 // bytes of the image
	Header     *Header
	HeaderAddr uint64
	IPIBAddr   uint64
	IPIB       *IPIB
}

// Errors of Create.
var (
	ErrHosts  = errors.New("no host to seal for")
	ErrSource = errors.New("input changed while it was read")
	ErrPSW    = errors.New("start address that no guest can start at")
)

// headerSpace is reserved for the SE header whatever its size, so that it can
// be given up to MaxSlots key slots later without moving anything.
const headerSpace = MaxHeaderSize

// Create writes an image to out, which starts out empty, several parts of it at
// once. It needs the same little memory for every size. After an error what out
// holds is of no use.
func Create(ctx context.Context, out io.WriterAt, spec Spec) (*Summary, error) {
	hosts, err := hostPoints(spec.Hosts)
	if err != nil {
		return nil, err
	}
	pcf := DefaultFlags
	if spec.PCF != nil {
		pcf = *spec.PCF
	}
	if err := spec.checkFlags(pcf); err != nil {
		return nil, err
	}
	var from entropy = random{}
	var sums *inputDigests
	if spec.Seed != nil {
		derived, digests, err := spec.seeded(ctx, pcf, hosts)
		if err != nil {
			return nil, err
		}
		defer derived.prk.Wipe()
		from, sums = derived, digests
	}
	keys, err := spec.keys(from)
	if err != nil {
		return nil, err
	}
	defer keys.wipe()
	parts, err := spec.plan(from, sums)
	if err != nil {
		return nil, err
	}
	var cipher *xts.Cipher
	if pcf&NoEncryption == 0 {
		if cipher, err = xts.New(keys.secrets.ImageKey); err != nil {
			return nil, fmt.Errorf("seal image: %w: %w", ErrKeySize, err)
		}
		defer cipher.Wipe()
	}
	pipe := &pipeline{out: out, cipher: cipher, progress: spec.Progress}
	digests, err := pipe.run(ctx, parts)
	if err != nil {
		return nil, err
	}

	ipib := &IPIB{}
	for _, p := range parts {
		ipib.Components = append(ipib.Components, IPIBComponent{p.prefix, p.addr, p.padded()})
	}
	stage3b := parts[len(parts)-1]
	keys.secrets.PSW, keys.secrets.SCF = PSW{MaskBAEA, stage3b.addr}, spec.SCF
	if spec.PSWAddr != nil {
		if keys.secrets.PSW.Addr, err = ipib.startAddr(*spec.PSWAddr); err != nil {
			return nil, err
		}
	}
	header := &Header{PCF: pcf, PLD: digests.PLD, ALD: digests.ALD, TLD: digests.TLD, NEP: digests.NEP}
	copy(header.IV[:], from.bytes("header IV", ivSize))
	customer, err := customerKey(keys.header, header)
	if err != nil {
		return nil, err
	}
	defer customer.scalar.Wipe()
	if header.CustomerKey, header.Slots, err = customer.slots(hosts, keys.header); err != nil {
		return nil, err
	}
	if err := header.Seal(keys.header, &keys.secrets); err != nil {
		return nil, err
	}
	s := &Summary{Header: header, HeaderAddr: headerAddr(), IPIB: ipib, IPIBAddr: stage3b.addr + stage3b.padded()}
	ipib.HeaderAddr, ipib.HeaderSize = s.HeaderAddr, uint64(header.Size())
	s.Size = int64(s.IPIBAddr) + int64(ipib.Size())
	return s, s.writePlain(out)
}

// writePlain writes all that is not encrypted.
func (s *Summary) writePlain(out io.WriterAt) error {
	for _, part := range []struct {
		addr uint64
		data []byte
	}{
		{PSWAddr, bootloader.Head()},
		{MetadataAddr, Metadata{s.HeaderAddr, s.IPIBAddr}.marshal()},
		{EntryAddr, bootloader.Entry()},
		{Stage3aAddr, bootloader.Stage3a(bootloader.Stage3aArgs{HeaderAddr: s.HeaderAddr, HeaderSize: uint64(s.Header.Size()), IPIBAddr: s.IPIBAddr})},
		{s.HeaderAddr, s.Header.Marshal()},
		{s.IPIBAddr, s.IPIB.Marshal()},
	} {
		if _, err := out.WriteAt(part.data, int64(part.addr)); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	return nil
}

func headerAddr() uint64 {
	return max(roundUp(uint64(Stage3aAddr+bootloader.Stage3aSize())), MinHeaderAddr)
}

// startAddr refuses a start address outside the image's protected pages.
func (p *IPIB) startAddr(addr uint64) (uint64, error) {
	for _, c := range p.Components {
		if addr >= c.Addr && addr-c.Addr < c.Size {
			return addr, nil
		}
	}
	return 0, fmt.Errorf("%w: 0x%x is in no component: what stands there the host decides", ErrPSW, addr)
}

// keySet is what Create encrypts with; it owns its bytes.
type keySet struct {
	header  secret.Bytes
	secrets Secrets
}

func (k *keySet) wipe() {
	k.header.Wipe()
	k.secrets.Wipe()
}

func (spec *Spec) keys(from entropy) (*keySet, error) {
	k := &keySet{}
	for _, key := range []struct {
		name  string
		given secret.Bytes
		size  int
		own   *secret.Bytes
	}{
		{"header key", spec.HeaderKey, HeaderKeySize, &k.header},
		{"image key", spec.ImageKey, ImageKeySize, &k.secrets.ImageKey},
		{"communication key", spec.CommKey, CommKeySize, &k.secrets.CommKey},
	} {
		switch {
		case key.given == nil:
			*key.own = from.bytes(key.name, key.size)
		case len(key.given) != key.size:
			k.wipe()
			return nil, fmt.Errorf("seal image: %w: %s has %d bytes, wants %d", ErrKeySize, key.name, len(key.given), key.size)
		default:
			*key.own = key.given.Clone()
		}
	}
	return k, nil
}

// hostPoints checks the hosts: their number, their curve, each once.
func hostPoints(hosts []*ecdsa.PublicKey) ([]*ecdh.PublicKey, error) {
	if len(hosts) == 0 {
		return nil, ErrHosts
	}
	if len(hosts) > MaxSlots {
		return nil, fmt.Errorf("%w: %d hosts, an SE header holds at most %d", ErrHosts, len(hosts), MaxSlots)
	}
	var out []*ecdh.PublicKey
	seen := make(map[[32]byte]bool)
	for _, host := range hosts {
		pub, err := host.ECDH()
		if err != nil {
			return nil, fmt.Errorf("wrap key slot: %w", err)
		}
		hash, err := hostkey.Hash(pub)
		if err != nil {
			return nil, fmt.Errorf("wrap key slot: %w", err)
		}
		if seen[hash] {
			return nil, fmt.Errorf("%w: host key %x is given twice", ErrHosts, hash)
		}
		seen[hash] = true
		out = append(out, pub)
	}
	return out, nil
}
