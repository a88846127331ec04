package luks2

import (
	"crypto/subtle"
	"fmt"
	"io"
	"slices"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// Supported tells whether Unlock and CheckKey can deal with a header's cipher.
func (h *Header) Supported() error {
	s := h.area.Segments["0"]
	switch {
	case s.Encryption != Encryption || !s.Integrity.supported() || s.IVTweak != "0":
		return fmt.Errorf("%w: cipher %s", ErrUnsupported, s.Encryption)
	case len(s.Flags) > 0 || len(h.area.Config.Requirements) > 0:
		return fmt.Errorf("%w: it asks for more than this program knows (re-encryption that is under way?)", ErrUnsupported)
	}
	return nil
}

// supported tells whether there is none, or the one that Write makes.
func (i *jsonIntegrity) supported() bool {
	return i == nil || *i == jsonIntegrity{Type: Integrity, JournalEncryption: "none", JournalIntegrity: "none"}
}

// KeySize is the size of the disk's volume key in bytes.
func (h *Header) KeySize() int { return (&Layout{Integrity: h.Integrity != ""}).keySize() }

// Unlock returns the volume key that a pass phrase, or what a key file holds,
// opens. r is the disk. The caller owns the key.
func (h *Header) Unlock(r io.ReaderAt, passphrase secret.Bytes) (secret.Bytes, error) {
	if err := h.Supported(); err != nil {
		return nil, err
	}
	var unsupported error
	for _, name := range sorted(h.area.Keyslots) {
		slot := h.area.Keyslots[name]
		key, err := slot.open(r, passphrase, h.KeySize())
		if err != nil {
			unsupported = fmt.Errorf("key slot %s: %w", name, err)
			continue
		}
		if h.digestMatches(key, name) {
			return key, nil
		}
		key.Wipe()
	}
	if unsupported != nil {
		return nil, unsupported
	}
	return nil, ErrKey
}

// CheckKey checks a volume key against the header's digest.
func (h *Header) CheckKey(key secret.Bytes) error {
	if err := h.Supported(); err != nil {
		return err
	}
	if len(key) != h.KeySize() || !h.digestMatches(key, "") {
		return fmt.Errorf("%w: the digest of the volume key does not match", ErrKey)
	}
	return nil
}

// digestMatches tells whether a key is the one of the payload, and of a key
// slot unless that is "".
func (h *Header) digestMatches(key secret.Bytes, slot string) bool {
	for _, d := range h.area.Digests {
		newHash, ok := hashes[d.Hash]
		if !ok || !slices.Contains(d.Segments, "0") || slot != "" && !slices.Contains(d.Keyslots, slot) {
			continue
		}
		got := pbkdf2(newHash, key, d.Salt, d.Iterations, len(d.Digest))
		if subtle.ConstantTimeCompare(got, d.Digest) == 1 {
			return true
		}
	}
	return false
}

// open derives what a slot holds with a pass phrase; right or wrong is for the
// digest to say.
func (k *jsonKeyslot) open(r io.ReaderAt, passphrase secret.Bytes, size int) (secret.Bytes, error) {
	if k.Type != "luks2" || k.KeySize != size || k.Area.Encryption != Encryption || k.Area.KeySize != KeySize {
		return nil, fmt.Errorf("%w: %s, %s", ErrUnsupported, k.Type, k.Area.Encryption)
	}
	newHash, ok := hashes[k.AF.Hash]
	if !ok {
		return nil, fmt.Errorf("%w: hash %.40q", ErrUnsupported, k.AF.Hash)
	}
	d := k.KDF
	if d.Type == "pbkdf2" && d.Iterations == 0 || d.Type != "pbkdf2" && (d.Time == 0 || d.Memory == 0 || d.CPUs == 0) {
		return nil, fmt.Errorf("%w: key derivation without a cost", ErrUnsupported)
	}
	if err := (KDF{d.Type, d.Memory, d.Time, d.CPUs, d.Iterations}).check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	offset, _ := number(k.Area.Offset) // checked by parseJSON
	material := make(secret.Bytes, (size*stripes+ivSector-1)/ivSector*ivSector)
	defer material.Wipe()
	if n, err := r.ReadAt(material, offset); n < len(material) {
		return nil, fmt.Errorf("%w: the disk ends in its key slots: %w", ErrHeader, err)
	}
	slotKey, err := d.derive(passphrase, KeySize)
	if err != nil {
		return nil, err
	}
	defer slotKey.Wipe()
	c, err := xts.New(slotKey)
	if err != nil {
		return nil, err
	}
	for at := 0; at < len(material); at += ivSector {
		c.Decrypt(material[at:at+ivSector], material[at:at+ivSector], xts.SectorTweak(uint64(at/ivSector)))
	}
	key := make(secret.Bytes, size)
	merge(key, material[:size*stripes], newHash())
	return key, nil
}
