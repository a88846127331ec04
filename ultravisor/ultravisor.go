// Package ultravisor is a software stand-in for the ultravisor, the Z firmware
// that opens SE images. It makes the same checks in the same order and refuses
// with the same codes, over guest memory (to boot a guest under emulation) or
// over a file (to unpack an image with an emulated host's private key).
//
// It protects nothing: the machine that runs it sees all that it decrypts.
package ultravisor

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/xts"
)

// Memory is guest absolute memory, or an image file: offsets are addresses.
type Memory interface {
	io.ReaderAt
	io.WriterAt
}

// Ultravisor takes one guest from its IPIB to its first instruction.
type Ultravisor struct {
	host *ecdh.PrivateKey
	ipib *seimage.IPIB // set by SetParameters
}

// New stands in for the firmware of the host with this private key.
func New(host *ecdh.PrivateKey) *Ultravisor { return &Ultravisor{host: host} }

// SetParameters does DIAGNOSE 0x308 subcode 8: it checks and keeps the IPIB.
func (u *Ultravisor) SetParameters(mem Memory, addr uint64) error {
	invalid := &Refusal{diag: diagInvalid}
	if addr%seimage.PageSize != 0 {
		invalid.Words = fmt.Sprintf("the IPIB's address 0x%x is not that of a page", addr)
		return invalid
	}
	ipib, err := readIPIB(mem, addr)
	if err != nil {
		invalid.Words = err.Error()
		return invalid
	}
	u.ipib = ipib
	return nil
}

// Unpack does subcode 10: it opens the SE header, verifies the pages, decrypts
// them in place and returns where the guest starts. Nothing is decrypted before
// all checks have passed. The error is a *Refusal, or that of the memory.
func (u *Ultravisor) Unpack(mem Memory) (seimage.PSW, error) {
	if u.ipib == nil {
		return seimage.PSW{}, &Refusal{diag: diagNoPVConf, Words: "no IPIB was set"}
	}
	o, err := u.admit(mem, u.ipib)
	if err != nil {
		return seimage.PSW{}, err
	}
	defer o.secrets.Wipe()
	if o.cipher == nil {
		return o.secrets.PSW, nil
	}
	for _, c := range u.ipib.Components {
		err := eachChunk(mem, c, func(b []byte, offset uint64) error {
			o.decrypt(b, c.TweakPrefix, offset)
			_, err := mem.WriteAt(b, int64(c.Addr+offset))
			return err
		})
		if err != nil {
			return seimage.PSW{}, fmt.Errorf("decrypt guest memory: %w", err)
		}
	}
	return o.secrets.PSW, nil
}

// opened is an admitted image; its owner wipes the secrets.
type opened struct {
	header  *seimage.Header
	secrets *seimage.Secrets
	cipher  *xts.Cipher // nil: components are in plain text
}

func (o *opened) decrypt(pages []byte, prefix, offset uint64) {
	for at := uint64(0); at < uint64(len(pages)); at += seimage.PageSize {
		page := pages[at : at+seimage.PageSize]
		o.cipher.Decrypt(page, page, seimage.PageTweak(prefix, offset+at))
	}
}

// admit makes all checks: header, slot, tags, flags, pages.
func (u *Ultravisor) admit(mem io.ReaderAt, ipib *seimage.IPIB) (*opened, error) {
	if ipib.HeaderSize > seimage.MaxHeaderSize || ipib.HeaderAddr+ipib.HeaderSize < ipib.HeaderAddr {
		return nil, refuse(CommandSetParameters, rcHeader, rrcSize, "the SE header's size is wrong")
	}
	raw := make([]byte, ipib.HeaderSize)
	if _, err := mem.ReadAt(raw, int64(ipib.HeaderAddr)); err != nil {
		return nil, refuse(CommandSetParameters, rcHeader, rrcSize, "the SE header lies outside of guest memory")
	}
	header, err := seimage.ParseHeader(raw)
	if err == nil && header.Size() != len(raw) {
		err = seimage.ErrHeaderSize
	}
	if err != nil {
		return nil, headerRefusal(err)
	}
	if header.PCF&^seimage.KnownFlags != 0 {
		return nil, refuse(CommandSetParameters, rcPCF, rrcPCF, "a plain-text control flag is not supported")
	}
	key, err := seimage.UnwrapSlot(u.host, header)
	if err != nil {
		return nil, headerRefusal(err)
	}
	defer key.Wipe()
	secrets, err := header.Open(key)
	if err != nil {
		return nil, headerRefusal(err)
	}
	o := &opened{header: header, secrets: secrets}
	if err := o.check(mem, ipib); err != nil {
		secrets.Wipe()
		return nil, err
	}
	return o, nil
}

// check verifies what the opened header says of the image.
func (o *opened) check(mem io.ReaderAt, ipib *seimage.IPIB) error {
	if o.secrets.SCF&^seimage.KnownSecretFlags != 0 {
		return refuse(CommandSetParameters, rcSCF, 0, "a secret control flag is not supported")
	}
	if o.header.PCF&seimage.NoEncryption == 0 {
		cipher, err := xts.New(o.secrets.ImageKey)
		if err != nil {
			return refuse(CommandSetParameters, rcHeader, 0, "the image key is no AES-XTS key")
		}
		o.cipher = cipher
	}
	d := seimage.NewDigester()
	for _, c := range ipib.Components {
		err := eachChunk(mem, c, func(b []byte, offset uint64) error {
			d.Add(b, c.Addr+offset, c.TweakPrefix, offset)
			return nil
		})
		if err != nil {
			return refuse(CommandUnpack, rcLength, 0, fmt.Sprintf("the component at 0x%x lies outside of guest memory: give the guest more memory", c.Addr))
		}
	}
	got := d.Sum()
	switch {
	case got.NEP != o.header.NEP:
		return refuse(CommandVerify, rcVerify, rrcNEP, "the image has too few or too many pages")
	case got.ALD != o.header.ALD:
		return refuse(CommandVerify, rcVerify, rrcALD, "the addresses of the image's pages were changed")
	case got.PLD != o.header.PLD:
		return refuse(CommandVerify, rcVerify, rrcPLD, "the image's pages were changed")
	case got.TLD != o.header.TLD:
		return refuse(CommandVerify, rcVerify, rrcTLD, "the tweaks of the image's pages were changed")
	}
	return nil
}

func headerRefusal(err error) *Refusal {
	for _, r := range []struct {
		err     error
		rc, rrc uint16
		words   string
	}{
		{seimage.ErrHeaderVersion, rcVersion, 0, "the SE header's version is not supported"},
		{seimage.ErrHeaderSize, rcHeader, rrcSize, "the SE header's size is wrong"},
		{seimage.ErrEncryptedSize, rcHeader, rrcSEA, "the SE header's encrypted area has a wrong size"},
		{seimage.ErrNoSlots, rcHeader, rrcNoSlots, "the SE header has no key slot"},
		{seimage.ErrNoSlotForHost, rcHostKey, rrcNoSlot, "the image has no key slot for this host"},
		{seimage.ErrCustomerKey, rcHostKey, rrcBadKey, "the customer public key is invalid"},
		{seimage.ErrSlotTag, rcHostKey, 0, "this host's key slot was changed"},
		{seimage.ErrOptionalItems, rcHeader, rrcSEA, "the SE header has optional items, which the stand-in does not know"},
	} {
		if errors.Is(err, r.err) {
			return refuse(CommandSetParameters, r.rc, r.rrc, r.words)
		}
	}
	return refuse(CommandSetParameters, rcHeader, 0, "the SE header was changed")
}

func readIPIB(mem io.ReaderAt, addr uint64) (*seimage.IPIB, error) {
	b := make([]byte, seimage.MaxIPIBSize)
	n, err := mem.ReadAt(b, int64(addr))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read IPIB: %w", err)
	}
	return seimage.ParseIPIB(b[:n])
}

// eachChunk reads a component in chunks of whole pages.
func eachChunk(mem io.ReaderAt, c seimage.IPIBComponent, do func(b []byte, offset uint64) error) error {
	buf := make([]byte, min(1<<20, c.Size))
	for offset := uint64(0); offset < c.Size; offset += uint64(len(buf)) {
		b := buf[:min(uint64(len(buf)), c.Size-offset)]
		if n, err := mem.ReadAt(b, int64(c.Addr+offset)); n < len(b) {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		if err := do(b, offset); err != nil {
			return err
		}
	}
	return nil
}

// RAM is guest memory in a slice.
type RAM []byte

// ReadAt implements io.ReaderAt.
func (m RAM) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (m RAM) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at > int64(len(m)) || len(b) > len(m)-int(at) {
		return 0, fmt.Errorf("write guest memory at 0x%x: %w", at, io.ErrShortWrite)
	}
	return copy(m[at:], b), nil
}
