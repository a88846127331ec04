package rootdisk

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/secexec/secexec/rootdisk/dmintegrity"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// aead is dm-crypt's authenc(hmac(sha256),xts(aes)) with the IV plain64, a sector
// at a time (Linux, crypt_convert_block_aead in drivers/md/dm-crypt.c and
// crypto/authenc.c). The tag is HMAC-SHA-256 over
//
//	number of the sector's first 512 bytes, u64, little-endian
//	the IV: the same number in 16 bytes
//	the encrypted sector
//
// so it says that the sector was written by who has the key, and at this place.
// That it is the newest that was written there, it can't say.
type aead struct {
	cipher *xts.Cipher
	mac    secret.Bytes // HMAC's key: the volume key's last 32 bytes
}

func newAEAD(key secret.Bytes) (*aead, error) {
	if len(key) != luks2.IntegrityKeySize {
		return nil, fmt.Errorf("%w: volume key has %d bytes, wants %d", ErrOptions, len(key), luks2.IntegrityKeySize)
	}
	c, err := xts.New(key[:xts.KeySize])
	if err != nil {
		return nil, err
	}
	return &aead{c, key[xts.KeySize:]}, nil
}

// newTag returns what computes tags, for one goroutine.
func (a *aead) newTag() hash.Hash { return hmac.New(sha256.New, a.mac) }

// tag appends the tag of an encrypted sector that starts at a byte of data.
func (a *aead) tag(out []byte, h hash.Hash, sector []byte, at int64) []byte {
	var head [24]byte
	number := uint64(at / ivSector)
	binary.LittleEndian.PutUint64(head[:], number)
	iv := xts.SectorTweak(number)
	copy(head[8:], iv[:])
	h.Reset()
	h.Write(head[:])
	h.Write(sector)
	return h.Sum(out)
}

// encryptTagged writes a dm-integrity device to out at an offset: superblock,
// empty journal, and the plain text of size bytes, encrypted, each sector with
// its tag. What the device gives beyond that are encrypted zeros: a sector
// without a valid tag would be an I/O error to whoever reads it.
func encryptTagged(ctx context.Context, out io.WriterAt, offset int64, plain io.ReaderAt, size int64, key secret.Bytes, l *dmintegrity.Layout) error {
	a, err := newAEAD(key)
	if err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	defer a.cipher.Wipe()
	device := io.NewOffsetWriter(out, offset)
	if _, err = device.WriteAt(l.Superblock(), 0); err == nil {
		err = l.WriteJournal(device)
	}
	if err == nil {
		err = eachChunk(ctx, l.Provided, func(b []byte, at int64) error {
			clear(b)
			if content := b[:max(0, min(int64(len(b)), size-at))]; len(content) > 0 {
				if n, err := plain.ReadAt(content, at); n < len(content) {
					return errors.Join(err, io.ErrUnexpectedEOF)
				}
			}
			tags, h := make([]byte, 0, len(b)/cryptSector*dmintegrity.TagSize), a.newTag()
			for i := 0; i < len(b); i += cryptSector {
				sector, place := b[i:i+cryptSector], at+int64(i)
				a.cipher.Encrypt(sector, sector, xts.SectorTweak(uint64(place)/ivSector))
				tags = a.tag(tags, h, sector, place)
			}
			// A chunk lies in one area: 16 MiB is a multiple of its size.
			if _, err := device.WriteAt(b, l.Data(at)); err != nil {
				return err
			}
			_, err := device.WriteAt(tags, l.Tag(at))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	return nil
}

// taggedPayload opens a dm-integrity device of this size that starts at an offset
// of the disk. It returns how much data it gives, and what reads and decrypts a
// chunk of it. A changed sector is an error.
func taggedPayload(disk io.ReaderAt, offset, size int64, key secret.Bytes) (int64, func(b []byte, at int64) error, error) {
	device := io.NewSectionReader(disk, offset, size)
	l, err := dmintegrity.Read(device, size)
	if err != nil {
		return 0, nil, err
	}
	journal, err := l.ReadJournal(device)
	if err != nil {
		return 0, nil, err
	}
	a, err := newAEAD(key)
	if err != nil {
		return 0, nil, err
	}
	return l.Provided, func(b []byte, at int64) error {
		tags, h := make([]byte, len(b)/cryptSector*dmintegrity.TagSize), a.newTag()
		if n, err := device.ReadAt(b, l.Data(at)); n < len(b) {
			return err
		}
		if n, err := device.ReadAt(tags, l.Tag(at)); n < len(tags) {
			return err
		}
		for i := 0; i < len(b); i += cryptSector {
			sector, place := b[i:i+cryptSector], at+int64(i)
			tag := tags[i/cryptSector*dmintegrity.TagSize:][:dmintegrity.TagSize]
			if err := journal.Sector(place, sector, tag); err != nil {
				return err
			}
			if !hmac.Equal(tag, a.tag(nil, h, sector, place)) {
				return fmt.Errorf("%w: sector at byte %d", ErrChanged, place)
			}
			a.cipher.Decrypt(sector, sector, xts.SectorTweak(uint64(place)/ivSector))
		}
		return nil
	}, nil
}
