// Package ultravisor is a software stand-in for the ultravisor, the Z firmware
// that opens SE images. It makes the same checks in the same order and refuses
// with the same codes, over guest memory (to boot a guest under emulation) or
// over a file (to unpack an image with an emulated host's private key).
//
// It protects nothing: the machine that runs it sees all that it decrypts.
// docs/ultravisor.md lists the checks, the codes and where it differs from
// firmware.
package ultravisor

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// Ultravisor takes one guest from its IPIB to its first instruction. It is not
// safe for use by several goroutines.
type Ultravisor struct {
	host    *ecdh.PrivateKey
	backups []*ecdh.PrivateKey
	ipib    *seimage.IPIB // set by SetParameters

	headerKey secret.Bytes // of an owner who opens a file; no host's key counts then
}

// New stands in for the firmware of the host with this private key and, on
// hosts that have them, backup keys. The keys stay the caller's.
func New(host *ecdh.PrivateKey, backups ...*ecdh.PrivateKey) *Ultravisor {
	return &Ultravisor{host: host, backups: backups}
}

// SetParameters does DIAGNOSE 0x308 subcode 8: it checks the IPIB at this guest
// absolute address as QEMU does on Z, and keeps it. The error is a *Refusal, or
// that of the memory; then an IPIB that was set before stays.
func (u *Ultravisor) SetParameters(mem Memory, addr uint64) error {
	if addr%seimage.PageSize != 0 {
		return refuseIPIB(fmt.Errorf("%w: its address 0x%x is not that of a page", seimage.ErrIPIB, addr))
	}
	b := make([]byte, seimage.MaxIPIBSize)
	n, err := mem.ReadAt(b, int64(addr))
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read IPIB: %w", err)
	}
	ipib, err := seimage.ParseIPIB(b[:n])
	if err != nil {
		return refuseIPIB(err)
	}
	if ipib.HeaderSize > seimage.MaxHeaderSize {
		return refuseIPIB(fmt.Errorf("%w: SE header of %d bytes, at most %d", seimage.ErrIPIB, ipib.HeaderSize, seimage.MaxHeaderSize))
	}
	if err := readRange(mem, make([]byte, ipib.HeaderSize), ipib.HeaderAddr); errors.Is(err, io.ErrUnexpectedEOF) {
		return refuseIPIB(fmt.Errorf("%w: the SE header lies outside of guest memory", seimage.ErrIPIB))
	} else if err != nil {
		return fmt.Errorf("read SE header: %w", err)
	}
	u.ipib = ipib
	return nil
}

// Unpack does subcode 10: it opens the SE header, verifies the pages, decrypts
// them in place and returns where the guest starts. Nothing is decrypted before
// all checks have passed. The error is a *Refusal, or that of the memory.
//
// The guest must not run meanwhile: pages are read once to verify and once to
// decrypt.
func (u *Ultravisor) Unpack(mem Memory) (seimage.PSW, error) {
	if u.ipib == nil {
		return seimage.PSW{}, &Refusal{Diag: diagNoPVConf, Words: "no IPIB was set"}
	}
	o, err := u.admit(mem, u.ipib)
	if err != nil {
		return seimage.PSW{}, err
	}
	defer o.wipe()
	if o.cipher == nil {
		return o.secrets.PSW, nil
	}
	for _, c := range u.ipib.Components {
		err := eachChunk(mem, c, func(pages []byte, offset uint64) error {
			o.decrypt(pages, c.TweakPrefix, offset)
			_, err := mem.WriteAt(pages, int64(c.Addr+offset))
			return err
		})
		if err != nil {
			return seimage.PSW{}, fmt.Errorf("decrypt guest memory: %w", err)
		}
	}
	return o.secrets.PSW, nil
}
