// Package seimage reads and writes the IBM Secure Execution boot image.
//
// The file is an image of guest memory from address 0, so a file offset is a
// guest absolute address; all numbers are big-endian. In it: a plain-text boot
// loader (stage3a), the SE header with a key slot per host, the encrypted
// components (kernel, initrd, command line, stage3b) and, last, the IPIB that
// lists them. docs/formats/se-image.md has the tables; s390-tools' pvimg 2.43
// writes the same format.
package seimage

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
)

// SE header, version 0x100 (pvimg: "SeHdrV1").
const (
	HeaderMagic   = "IBMSecEx"
	HeaderVersion = 0x100
	MaxHeaderSize = 8192 // bytes, checked by QEMU and firmware
	MaxSlots      = (MaxHeaderSize - fixedSize - SecretsSize - tagSize) / SlotSize
	SlotSize      = 80
	SecretsSize   = 128 // the encrypted area without optional items
	HeaderKeySize = 32
	CommKeySize   = 32
	ImageKeySize  = 64

	fixedSize = 416
	ivSize    = 12
	tagSize   = 16
)

// Errors of SE headers. Firmware tells them apart, and so does the ultravisor
// stand-in.
var (
	ErrHeaderMagic   = errors.New("no SE header")
	ErrHeaderVersion = errors.New("unknown SE header version")
	ErrHeaderSize    = errors.New("wrong SE header size")
	ErrEncryptedSize = errors.New("wrong size of the SE header's encrypted area")
	ErrNoSlots       = errors.New("SE header has no key slot")
	ErrReserved      = errors.New("reserved bytes of the SE header are not zero")
	ErrHeaderTag     = errors.New("SE header is not authentic under this header key")
	ErrOptionalItems = errors.New("SE header has optional items")
)

// PSW is a program status word: mask and instruction address.
type PSW struct{ Mask, Addr uint64 }

// MaskBAEA is the PSW mask of 64-bit addressing mode (bits 31 and 32).
const MaskBAEA = 0x0000000180000000

// Header is the public part of an SE header.
type Header struct {
	IV          [ivSize]byte // of the GCM over the header
	NEP         uint64       // number of encrypted pages
	PCF         Flags        // plain-text control flags
	CustomerKey [hostkey.PointSize]byte
	PLD         [64]byte // page list digest
	ALD         [64]byte // address list digest
	TLD         [64]byte // tweak list digest
	Slots       []KeySlot
	Encrypted   []byte // the encrypted area, at least SecretsSize bytes
	Tag         [tagSize]byte
}

// Size is the header's size in bytes (field SEHS).
func (h *Header) Size() int { return fixedSize + SlotSize*len(h.Slots) + len(h.Encrypted) + tagSize }

// HasSlot tells whether a host with this key hash has a key slot.
func (h *Header) HasSlot(hash [32]byte) bool {
	for _, s := range h.Slots {
		if s.HostHash == hash {
			return true
		}
	}
	return false
}

// Marshal returns the header's bytes.
func (h *Header) Marshal() []byte {
	return append(append(h.authenticated(), h.Encrypted...), h.Tag[:]...)
}

// authenticated returns what the GCM tag covers in plain text: all before the
// encrypted area.
func (h *Header) authenticated() []byte {
	be := binary.BigEndian
	b := make([]byte, 0, h.Size())
	b = append(b, HeaderMagic...)
	b = be.AppendUint32(b, HeaderVersion)
	b = be.AppendUint32(b, uint32(h.Size()))
	b = append(b, h.IV[:]...)
	b = be.AppendUint32(b, 0)
	b = be.AppendUint64(b, uint64(len(h.Slots)))
	b = be.AppendUint64(b, uint64(len(h.Encrypted)))
	b = be.AppendUint64(b, h.NEP)
	b = be.AppendUint64(b, uint64(h.PCF))
	b = append(b, h.CustomerKey[:]...)
	b = append(b, h.PLD[:]...)
	b = append(b, h.ALD[:]...)
	b = append(b, h.TLD[:]...)
	for _, s := range h.Slots {
		b = append(b, s.HostHash[:]...)
		b = append(b, s.Wrapped[:]...)
		b = append(b, s.Tag[:]...)
	}
	return b
}

// ParseHeader parses the header at the start of b; bytes after it are ignored.
func ParseHeader(b []byte) (*Header, error) {
	be := binary.BigEndian
	if len(b) < fixedSize || string(b[:8]) != HeaderMagic {
		return nil, ErrHeaderMagic
	}
	if v := be.Uint32(b[8:]); v != HeaderVersion {
		return nil, fmt.Errorf("%w 0x%x, wants 0x%x", ErrHeaderVersion, v, HeaderVersion)
	}
	size, slots, encrypted := uint64(be.Uint32(b[12:])), be.Uint64(b[32:]), be.Uint64(b[40:])
	switch {
	case size > MaxHeaderSize || size > uint64(len(b)):
		return nil, fmt.Errorf("%w: %d bytes, at most %d and all of them there", ErrHeaderSize, size, MaxHeaderSize)
	case slots == 0:
		return nil, ErrNoSlots
	case slots > MaxSlots:
		return nil, fmt.Errorf("%w: %d key slots, at most %d", ErrHeaderSize, slots, MaxSlots)
	case encrypted < SecretsSize || encrypted > MaxHeaderSize:
		return nil, fmt.Errorf("%w: %d bytes, at least %d", ErrEncryptedSize, encrypted, SecretsSize)
	case size != fixedSize+SlotSize*slots+encrypted+tagSize:
		return nil, fmt.Errorf("%w: %d bytes, its parts have %d", ErrHeaderSize, size, fixedSize+SlotSize*slots+encrypted+tagSize)
	case be.Uint32(b[28:]) != 0:
		return nil, ErrReserved
	}
	h := &Header{NEP: be.Uint64(b[48:]), PCF: Flags(be.Uint64(b[56:]))}
	copy(h.IV[:], b[16:])
	copy(h.CustomerKey[:], b[64:])
	copy(h.PLD[:], b[224:])
	copy(h.ALD[:], b[288:])
	copy(h.TLD[:], b[352:])
	b = b[fixedSize:size]
	h.Slots = make([]KeySlot, slots)
	for i := range h.Slots {
		s := &h.Slots[i]
		copy(s.HostHash[:], b)
		copy(s.Wrapped[:], b[32:])
		copy(s.Tag[:], b[64:])
		b = b[SlotSize:]
	}
	h.Encrypted = append([]byte(nil), b[:encrypted]...)
	copy(h.Tag[:], b[encrypted:])
	return h, nil
}

// Secrets is the plain text of the header's encrypted area. Its owner calls Wipe.
type Secrets struct {
	CommKey  secret.Bytes // CCK, customer communication key, 32 bytes
	ImageKey secret.Bytes // AES-256-XTS key of the components, 64 bytes
	PSW      PSW          // where the unpacked guest starts: stage3b
	SCF      SecretFlags
}

// Wipe overwrites the keys.
func (s *Secrets) Wipe() {
	s.CommKey.Wipe()
	s.ImageKey.Wipe()
}

func (s *Secrets) marshal() (secret.Bytes, error) {
	if len(s.CommKey) != CommKeySize || len(s.ImageKey) != ImageKeySize {
		return nil, fmt.Errorf("seal SE header: %w: communication key %d bytes, image key %d bytes", ErrKeySize, len(s.CommKey), len(s.ImageKey))
	}
	be := binary.BigEndian
	b := make(secret.Bytes, 0, SecretsSize)
	b = append(b, s.CommKey...)
	b = append(b, s.ImageKey...)
	b = be.AppendUint64(b, s.PSW.Mask)
	b = be.AppendUint64(b, s.PSW.Addr)
	b = be.AppendUint64(b, uint64(s.SCF))
	return be.AppendUint64(b, 0), nil // no optional items, reserved
}

// Seal encrypts the secrets into the header and authenticates all of it under
// the header protection key.
func (h *Header) Seal(headerKey secret.Bytes, s *Secrets) error {
	plain, err := s.marshal()
	if err != nil {
		return err
	}
	defer plain.Wipe()
	return h.sealArea(headerKey, plain)
}

// sealArea is Seal for an encrypted area of any content.
func (h *Header) sealArea(headerKey, plain secret.Bytes) error {
	gcm, err := newGCM(headerKey)
	if err != nil {
		return fmt.Errorf("seal SE header: %w", err)
	}
	h.Encrypted = make([]byte, len(plain)) // its length is authenticated
	sealed := gcm.Seal(nil, h.IV[:], plain, h.authenticated())
	copy(h.Encrypted, sealed)
	copy(h.Tag[:], sealed[len(plain):])
	return nil
}

// Open authenticates the header under the header protection key and returns
// its secrets.
func (h *Header) Open(headerKey secret.Bytes) (*Secrets, error) {
	b, err := h.openArea(headerKey)
	if err != nil {
		return nil, err
	}
	defer b.Wipe()
	be := binary.BigEndian
	if len(b) != SecretsSize || be.Uint32(b[120:]) != 0 {
		return nil, ErrOptionalItems
	}
	if be.Uint32(b[124:]) != 0 {
		return nil, ErrReserved
	}
	return &Secrets{
		CommKey:  append(secret.Bytes(nil), b[:32]...),
		ImageKey: append(secret.Bytes(nil), b[32:96]...),
		PSW:      PSW{be.Uint64(b[96:]), be.Uint64(b[104:])},
		SCF:      SecretFlags(be.Uint64(b[112:])),
	}, nil
}

// openArea authenticates the header and returns the plain text of its
// encrypted area, whatever is in it. The caller owns it.
func (h *Header) openArea(headerKey secret.Bytes) (secret.Bytes, error) {
	gcm, err := newGCM(headerKey)
	if err != nil {
		return nil, fmt.Errorf("open SE header: %w", err)
	}
	b, err := gcm.Open(nil, h.IV[:], append(append([]byte(nil), h.Encrypted...), h.Tag[:]...), h.authenticated())
	if err != nil {
		return nil, ErrHeaderTag
	}
	return b, nil
}

// ErrKeySize says that a key given has the wrong length.
var ErrKeySize = errors.New("key of the wrong length")

func newGCM(key []byte) (cipher.AEAD, error) {
	if len(key) != HeaderKeySize {
		return nil, fmt.Errorf("%w: header key has %d bytes, wants %d", ErrKeySize, len(key), HeaderKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
