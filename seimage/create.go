package seimage

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage/bootloader"
	"github.com/secexec/secexec/xts"
)

// Source is a stream of known length.
type Source struct {
	R    io.Reader
	Size int64 // bytes; 0 and a nil R: absent
}

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
)

// headerSpace is reserved for the SE header whatever its size, so that it can
// be given up to MaxSlots key slots later without moving anything.
const headerSpace = MaxHeaderSize

// plannedComponent is a component before it is written.
type plannedComponent struct {
	kind   uint16
	src    io.Reader
	size   uint64 // before padding
	prefix uint64
	addr   uint64
}

// Create writes an image to out, which starts out empty. It needs the same
// little memory for every size. After an error what out holds is of no use.
func Create(ctx context.Context, out io.WriterAt, spec Spec) (*Summary, error) {
	keys, err := spec.keys()
	if err != nil {
		return nil, err
	}
	defer keys.wipe()
	pcf := DefaultFlags
	if spec.PCF != nil {
		pcf = *spec.PCF
	}
	if err := CheckFlags(pcf, spec.SCF, spec.CommKey != nil); err != nil {
		return nil, err
	}
	customer, err := ecdh.P521().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make customer key: %w", err)
	}
	header := &Header{PCF: pcf}
	_, _ = rand.Read(header.IV[:])
	if header.CustomerKey, err = hostkey.Coordinates(customer.PublicKey()); err != nil {
		return nil, err
	}
	if header.Slots, err = slots(customer, spec.Hosts, keys.header); err != nil {
		return nil, err
	}
	plan, err := spec.plan()
	if err != nil {
		return nil, err
	}
	stage3b := plan[len(plan)-1]

	var cipher *xts.Cipher
	if pcf&NoEncryption == 0 {
		if cipher, err = xts.New(keys.secrets.ImageKey); err != nil {
			return nil, fmt.Errorf("seal image: %w: %w", ErrKeySize, err)
		}
		defer cipher.Wipe()
	}
	digester := NewDigester()
	ipib := &IPIB{}
	for _, c := range plan {
		if err := c.write(ctx, out, cipher, digester); err != nil {
			return nil, err
		}
		ipib.Components = append(ipib.Components, IPIBComponent{c.prefix, c.addr, c.padded()})
	}
	digests := digester.Sum()
	header.PLD, header.ALD, header.TLD, header.NEP = digests.PLD, digests.ALD, digests.TLD, digests.NEP
	keys.secrets.PSW = PSW{MaskBAEA, stage3b.addr}
	keys.secrets.SCF = spec.SCF
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

// keySet is what Create encrypts with; it owns its bytes.
type keySet struct {
	header  secret.Bytes
	secrets Secrets
}

func (k *keySet) wipe() {
	k.header.Wipe()
	k.secrets.Wipe()
}

func (spec *Spec) keys() (*keySet, error) {
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
			*key.own = secret.Random(key.size)
		case len(key.given) != key.size:
			k.wipe()
			return nil, fmt.Errorf("seal image: %w: %s has %d bytes, wants %d", ErrKeySize, key.name, len(key.given), key.size)
		default:
			*key.own = key.given.Clone()
		}
	}
	return k, nil
}

func slots(customer *ecdh.PrivateKey, hosts []*ecdsa.PublicKey, headerKey secret.Bytes) ([]KeySlot, error) {
	if len(hosts) == 0 {
		return nil, ErrHosts
	}
	if len(hosts) > MaxSlots {
		return nil, fmt.Errorf("%w: %d hosts, an SE header holds at most %d", ErrHosts, len(hosts), MaxSlots)
	}
	var out []KeySlot
	for _, host := range hosts {
		pub, err := host.ECDH()
		if err != nil {
			return nil, fmt.Errorf("wrap key slot: %w", err)
		}
		slot, err := WrapSlot(customer, pub, headerKey)
		if err != nil {
			return nil, err
		}
		out = append(out, slot)
	}
	return out, nil
}

// plan checks the parts and gives each its place and tweak prefix.
func (spec *Spec) plan() ([]*plannedComponent, error) {
	head := make([]byte, min(kernelHead, max(0, spec.Kernel.Size)))
	if _, err := io.ReadFull(spec.Kernel.R, head); err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	limit, err := checkKernel(head, spec.Kernel.Size)
	if err != nil {
		return nil, err
	}
	cmdline, err := cmdlineBytes(spec.Cmdline, limit)
	if err != nil {
		return nil, err
	}
	if spec.Initrd.Size < 0 || spec.Initrd.Size > MaxInitrdSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInitrd, spec.Initrd.Size, int64(MaxInitrdSize))
	}
	initrd := spec.Initrd.R
	if initrd == nil {
		initrd = bytes.NewReader(nil)
	}
	plan := []*plannedComponent{
		{kind: KindKernel, src: io.MultiReader(bytes.NewReader(head), spec.Kernel.R), size: uint64(spec.Kernel.Size)},
		{kind: KindInitrd, src: initrd, size: uint64(spec.Initrd.Size)},
		{kind: KindCmdline, src: bytes.NewReader(cmdline), size: uint64(len(cmdline))},
		{kind: KindStage3b, size: uint64(bootloader.Stage3bSize())},
	}
	addr := headerAddr() + headerSpace
	for _, c := range plan {
		var salt [8]byte
		_, _ = rand.Read(salt[2:])
		binary.BigEndian.PutUint16(salt[:], c.kind)
		c.prefix = binary.BigEndian.Uint64(salt[:])
		c.addr = addr
		addr += c.padded()
	}
	plan[3].src = bytes.NewReader(bootloader.Stage3b(bootloader.Stage3bArgs{
		Kernel:  bootloader.Range{Addr: plan[0].addr, Size: plan[0].size},
		Initrd:  bootloader.Range{Addr: plan[1].addr, Size: plan[1].size},
		Cmdline: bootloader.Range{Addr: plan[2].addr, Size: plan[2].size},
		PSWMask: MaskBAEA, PSWAddr: kernelStart,
	}))
	return plan, nil
}

// padded is the component's size in the image: whole pages, at least one.
func (c *plannedComponent) padded() uint64 { return max(roundUp(c.size), PageSize) }

// write reads, encrypts, digests and writes the component, a chunk at a time.
func (c *plannedComponent) write(ctx context.Context, out io.WriterAt, cipher *xts.Cipher, d *Digester) error {
	chunk := make([]byte, min(1<<20, c.padded()))
	for offset := uint64(0); offset < c.padded(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := chunk[:min(uint64(len(chunk)), c.padded()-offset)]
		n := 0
		if offset < c.size {
			var err error
			if n, err = io.ReadFull(c.src, b[:min(uint64(len(b)), c.size-offset)]); err != nil {
				return fmt.Errorf("read component of kind %d: %w at byte %d of %d: %w", c.kind, ErrSource, offset+uint64(n), c.size, err)
			}
		}
		clear(b[n:])
		if cipher != nil {
			for at := uint64(0); at < uint64(len(b)); at += PageSize {
				page := b[at : at+PageSize]
				cipher.Encrypt(page, page, PageTweak(c.prefix, offset+at))
			}
		}
		d.Add(b, c.addr+offset, c.prefix, offset)
		if _, err := out.WriteAt(b, int64(c.addr+offset)); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		offset += uint64(len(b))
	}
	if n, _ := io.ReadFull(c.src, chunk[:1]); n != 0 {
		return fmt.Errorf("read component of kind %d: %w: it is longer than %d bytes", c.kind, ErrSource, c.size)
	}
	return nil
}
