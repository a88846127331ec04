package luks2

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// randoms gives the header's random parts.
type randoms func(n int) secret.Bytes

// Write writes both copies of the header and a key slot for each of slots, which
// all hold the volume key, to a new disk: what is behind them up to
// PayloadOffset has to be zeros already.
func Write(out io.WriterAt, l Layout, key secret.Bytes, slots ...Slot) error {
	area, err := encode(&l, key, slots, secret.Random)
	if err != nil {
		return fmt.Errorf("make LUKS2 header: %w", err)
	}
	if _, err := out.WriteAt(area, 0); err != nil {
		return fmt.Errorf("write LUKS2 header: %w", err)
	}
	return nil
}

// Check tells whether Write would take these, before long work.
func Check(l Layout, slots ...Slot) error { return l.check(slots) }

func encode(l *Layout, key secret.Bytes, slots []Slot, random randoms) ([]byte, error) {
	if err := l.check(slots); err != nil {
		return nil, err
	}
	if len(key) != l.keySize() {
		return nil, fmt.Errorf("%w: volume key has %d bytes, wants %d", ErrOptions, len(key), l.keySize())
	}
	size := slotSize(len(key))
	area := make([]byte, slotsOffset+len(slots)*size)
	segment := jsonSegment{Type: "crypt", Offset: decimal(PayloadOffset), Size: decimal(l.Size), IVTweak: "0", Encryption: Encryption, SectorSize: SectorSize}
	if l.Integrity {
		segment.Size = "dynamic" // what cryptsetup writes: it asks the superblock
		segment.Integrity = &jsonIntegrity{Type: Integrity, JournalEncryption: "none", JournalIntegrity: "none"}
	}
	j := jsonArea{
		Keyslots: make(map[string]jsonKeyslot),
		Tokens:   map[string]json.RawMessage{},
		Segments: map[string]jsonSegment{"0": segment},
		Config:   jsonConfig{JSONSize: decimal(headerSize - binarySize), KeyslotsSize: decimal(PayloadOffset - slotsOffset)},
	}
	names := make([]string, 0, len(slots))
	for i, s := range slots {
		at := slotsOffset + i*size
		slot, err := makeSlot(area[at:at+size], at, key, s, random)
		if err != nil {
			return nil, err
		}
		name := strconv.Itoa(i)
		names = append(names, name)
		j.Keyslots[name] = slot
	}
	// The volume key is random, so its digest needs no cost either.
	salt := random(32)
	digest := pbkdf2(sha256.New, key, salt, MinIterations, sha256.Size)
	j.Digests = map[string]jsonDigest{"0": {"pbkdf2", names, []string{"0"}, "sha256", MinIterations, salt, digest}}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if len(text) >= headerSize-binarySize {
		return nil, fmt.Errorf("%w: JSON area of %d bytes", ErrOptions, len(text))
	}
	h := binaryHeader{Size: headerSize, Sequence: 1, Label: l.Label, UUID: FormatUUID(l.ID)}
	copy(h.Salt[:], random(len(h.Salt)))
	copy(area, h.encode(text))
	h.Second, h.Offset = true, headerSize
	copy(h.Salt[:], random(len(h.Salt)))
	copy(area[headerSize:], h.encode(text))
	return area, nil
}

// makeSlot fills a key slot's area, which starts at an offset of the disk.
func makeSlot(area []byte, offset int, key secret.Bytes, s Slot, random randoms) (jsonKeyslot, error) {
	k := s.KDF.withDefaults()
	kdf := jsonKDF{Type: k.Type, Iterations: k.Iterations, Time: k.Time, Memory: k.Memory, CPUs: k.CPUs, Salt: random(32)}
	if k.Type == "pbkdf2" {
		kdf.Hash = "sha256"
	}
	slotKey, err := kdf.derive(s.Passphrase, KeySize)
	if err != nil {
		return jsonKeyslot{}, err
	}
	defer slotKey.Wipe()
	c, err := xts.New(slotKey)
	if err != nil {
		return jsonKeyslot{}, err
	}
	noise := random(len(key) * (stripes - 1))
	defer noise.Wipe()
	split(area[:len(key)*stripes], key, noise, sha256.New())
	for at := 0; at < len(area); at += ivSector {
		c.Encrypt(area[at:at+ivSector], area[at:at+ivSector], xts.SectorTweak(uint64(at/ivSector)))
	}
	return jsonKeyslot{
		Type: "luks2", KeySize: len(key), KDF: &kdf,
		AF:   &jsonAF{"luks1", stripes, "sha256"},
		Area: jsonSlotArea{Type: "raw", Offset: decimal(offset), Size: decimal(len(area)), Encryption: Encryption, KeySize: KeySize},
	}, nil
}

func decimal[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

// FormatUUID returns a UUID's text.
func FormatUUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// ParseUUID reads a UUID's text, as FormatUUID writes it or in capitals.
func ParseUUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || FormatUUID([16]byte(b)) != strings.ToLower(s) || [16]byte(b) == id {
		return id, fmt.Errorf("%w: %.80q is no UUID", ErrOptions, s)
	}
	return [16]byte(b), nil
}
