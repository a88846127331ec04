package ultravisor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/xts"
)

// opened is an admitted image. Its owner calls wipe.
type opened struct {
	header  *seimage.Header
	secrets *seimage.Secrets
	cipher  *xts.Decrypter // nil: components are in plain text

	// stored has SHA-256 over each component's pages as they were verified, so
	// that who reads them again later can tell that they are the same.
	stored [][sha256.Size]byte
}

// wipe overwrites all key material of the image that there is. Where xts has no
// assembly, round keys are out of reach, in crypto/aes: they go with the process.
func (o *opened) wipe() {
	if o.secrets != nil {
		o.secrets.Wipe()
	}
	if o.cipher != nil {
		o.cipher.Wipe()
		o.cipher = nil
	}
}

// decrypt decrypts pages of a component in place; the first lies at this byte
// offset within it.
func (o *opened) decrypt(pages []byte, prefix, offset uint64) {
	if o.cipher == nil {
		return
	}
	for at := uint64(0); at < uint64(len(pages)); at += seimage.PageSize {
		page := pages[at : at+seimage.PageSize]
		o.cipher.Decrypt(page, page, seimage.PageTweak(prefix, offset+at))
	}
}

// admit makes all checks of firmware's, in its order: header, slot, tags,
// flags, pages. It only reads.
func (u *Ultravisor) admit(mem io.ReaderAt, ipib *seimage.IPIB) (_ *opened, err error) {
	o := &opened{}
	defer func() {
		if err != nil {
			o.wipe()
		}
	}()
	if err := u.openHeader(o, mem, ipib); err != nil {
		if r := refuseHeader(err); r != nil {
			return nil, r
		}
		return nil, err
	}
	if o.header.PCF&seimage.NoEncryption == 0 {
		if o.cipher, err = xts.NewDecrypter(o.secrets.ImageKey); err != nil {
			return nil, err // of the length alone, which the header fixes
		}
	}
	if err := o.verify(mem, ipib); err != nil {
		return nil, err
	}
	return o, nil
}

// openHeader parses and authenticates the SE header.
func (u *Ultravisor) openHeader(o *opened, mem io.ReaderAt, ipib *seimage.IPIB) error {
	raw := make([]byte, min(ipib.HeaderSize, seimage.MaxHeaderSize))
	if err := readRange(mem, raw, ipib.HeaderAddr); err != nil {
		return err
	}
	header, err := seimage.ParseHeader(raw)
	if err != nil {
		return err
	}
	if uint64(header.Size()) != ipib.HeaderSize {
		return fmt.Errorf("%w: %d bytes, the IPIB says %d", seimage.ErrHeaderSize, header.Size(), ipib.HeaderSize)
	}
	if header.PCF&^seimage.KnownFlags != 0 {
		return refuse(CommandSetParameters, rcPCF, rrcPCF, "a plain-text control flag is not supported")
	}
	key, err := u.unwrap(header)
	if err != nil {
		return err
	}
	defer key.Wipe()
	secrets, err := header.Open(key)
	if err != nil {
		return err
	}
	o.header, o.secrets = header, secrets
	if secrets.SCF&^seimage.KnownSecretFlags != 0 {
		return refuse(CommandSetParameters, rcSCF, rrcSCF, "a secret control flag is not supported")
	}
	return nil
}

// unwrap returns the header protection key from the slot of one of the host's
// keys; the caller wipes it. A backup key opens only images that allow it.
func (u *Ultravisor) unwrap(h *seimage.Header) (secret.Bytes, error) {
	if u.headerKey != nil {
		return u.headerKey.Clone(), nil
	}
	key, err := seimage.UnwrapSlot(u.host, h)
	if !errors.Is(err, seimage.ErrNoSlotForHost) {
		return key, err
	}
	for _, backup := range u.backups {
		key, backupErr := seimage.UnwrapSlot(backup, h)
		if errors.Is(backupErr, seimage.ErrNoSlotForHost) {
			continue
		}
		if h.PCF&seimage.BackupKeys == 0 {
			key.Wipe()
			return nil, refuse(CommandSetParameters, rcHostKey, rrcBackupKey, "the backup host key is not allowed")
		}
		return key, backupErr
	}
	return nil, err
}

// verify compares the pages with what the authentic header says of them.
func (o *opened) verify(mem io.ReaderAt, ipib *seimage.IPIB) error {
	d := seimage.NewDigester()
	for _, c := range ipib.Components {
		stored := sha256.New()
		err := eachChunk(mem, c, func(pages []byte, offset uint64) error {
			d.Add(pages, c.Addr+offset, c.TweakPrefix, offset)
			stored.Write(pages)
			return nil
		})
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return refuse(CommandUnpack, rcLength, 0, fmt.Sprintf("the component at 0x%x lies outside of guest memory: give the guest more memory", c.Addr))
		}
		if err != nil {
			return err
		}
		o.stored = append(o.stored, [sha256.Size]byte(stored.Sum(nil)))
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
