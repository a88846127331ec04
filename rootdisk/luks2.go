package rootdisk

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// Layout of a disk's first 16 MiB (LUKS2 On-Disk Format Specification 1.1):
// binary header and JSON area, their second copy, the key slot's area, nothing.
const (
	binarySize    = 4096
	headerSize    = 16 << 10 // binary header and JSON area
	slotOffset    = 2 * headerSize
	stripes       = 4000
	slotSize      = (KeySize*stripes + binarySize - 1) / binarySize * binarySize
	payloadOffset = 16 << 20

	maxHeaderSize = 4 << 20 // the largest that the specification allows
)

// iterations of PBKDF2 for key slot and digest. The pass phrase is a key file of
// 64 random bytes and the volume key is random too, so stretching adds nothing;
// 1000 is the least that cryptsetup takes.
const iterations = 1000

// ErrHeader says that bytes are no LUKS2 header.
var ErrHeader = errors.New("no valid LUKS2 header")

// The JSON area's objects. Numbers of 64 bits are strings in it.
type luksJSON struct {
	Keyslots map[string]luksKeyslot `json:"keyslots"`
	Tokens   map[string]any         `json:"tokens"`
	Segments map[string]luksSegment `json:"segments"`
	Digests  map[string]luksDigest  `json:"digests"`
	Config   luksConfig             `json:"config"`
}

type luksKeyslot struct {
	Type    string   `json:"type"`
	KeySize int      `json:"key_size"`
	AF      luksAF   `json:"af"`
	Area    luksArea `json:"area"`
	KDF     luksKDF  `json:"kdf"`
}

type luksAF struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type luksArea struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"`
}

type luksKDF struct {
	Type       string `json:"type"`
	Hash       string `json:"hash"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
}

type luksSegment struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	IVTweak    string `json:"iv_tweak"`
	Encryption string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

type luksDigest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type luksConfig struct {
	JSONSize     string `json:"json_size"`
	KeyslotsSize string `json:"keyslots_size"`
}

const encryption = "aes-xts-plain64"

// randoms are the header's random parts.
type randoms struct {
	salt1, salt2     [64]byte // of the two copies
	kdfSalt, digSalt [32]byte
	stripes          secret.Bytes // KeySize*(stripes-1) bytes of the anti-forensic split
}

func newRandoms() *randoms {
	r := &randoms{stripes: secret.Random(KeySize * (stripes - 1))}
	copy(r.salt1[:], secret.Random(64))
	copy(r.salt2[:], secret.Random(64))
	copy(r.kdfSalt[:], secret.Random(32))
	copy(r.digSalt[:], secret.Random(32))
	return r
}

// writeHeader writes a LUKS2 header with one key slot.
func writeHeader(out io.WriterAt, v *Volume, key, passphrase secret.Bytes) error {
	r := newRandoms()
	defer r.stripes.Wipe()
	header, slot, err := header(v, key, passphrase, r)
	if err != nil {
		return fmt.Errorf("make LUKS2 header: %w", err)
	}
	area := make([]byte, payloadOffset)
	copy(area, header)
	copy(area[slotOffset:], slot)
	if _, err := out.WriteAt(area, 0); err != nil {
		return fmt.Errorf("write LUKS2 header: %w", err)
	}
	return nil
}

// header returns both copies of the header, and the key slot's area.
func header(v *Volume, key, passphrase secret.Bytes, r *randoms) (both, slot []byte, err error) {
	digest, err := pbkdf2.Key(sha256.New, string(key), r.digSalt[:], iterations, sha256.Size)
	if err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(luksJSON{
		Keyslots: map[string]luksKeyslot{"0": {
			Type: "luks2", KeySize: KeySize,
			AF:   luksAF{"luks1", stripes, "sha256"},
			Area: luksArea{"raw", decimal(slotOffset), decimal(slotSize), encryption, KeySize},
			KDF:  luksKDF{"pbkdf2", "sha256", iterations, r.kdfSalt[:]},
		}},
		Tokens:   map[string]any{},
		Segments: map[string]luksSegment{"0": {"crypt", decimal(v.Offset), decimal(v.Size), "0", encryption, cryptSector}},
		Digests:  map[string]luksDigest{"0": {"pbkdf2", []string{"0"}, []string{"0"}, "sha256", iterations, r.digSalt[:], digest}},
		Config:   luksConfig{decimal(headerSize - binarySize), decimal(payloadOffset - slotOffset)},
	})
	if err != nil {
		return nil, nil, err
	}
	both = append(binary1(v.ID, "LUKS\xba\xbe", 0, r.salt1, text), binary1(v.ID, "SKUL\xba\xbe", headerSize, r.salt2, text)...)

	slotKey, err := pbkdf2.Key(sha256.New, string(passphrase), r.kdfSalt[:], iterations, KeySize)
	if err != nil {
		return nil, nil, err
	}
	defer clear(slotKey)
	c, err := xts.New(slotKey)
	if err != nil {
		return nil, nil, err
	}
	defer c.Wipe()
	slot = make([]byte, slotSize)
	split(slot, key, r.stripes)
	for at := 0; at < len(slot); at += ivSector {
		c.Encrypt(slot[at:at+ivSector], slot[at:at+ivSector], xts.SectorTweak(uint64(at/ivSector)))
	}
	return both, slot, nil
}

// binary1 returns one copy: binary header, JSON area, checksum over both.
func binary1(id [16]byte, magic string, offset uint64, salt [64]byte, text []byte) []byte {
	be := binary.BigEndian
	b := make([]byte, headerSize)
	copy(b, magic)
	be.PutUint16(b[6:], 2)
	be.PutUint64(b[8:], headerSize)
	be.PutUint64(b[16:], 1) // sequence number
	copy(b[72:], "sha256")
	copy(b[104:], salt[:])
	copy(b[168:], formatUUID(id))
	be.PutUint64(b[256:], offset)
	copy(b[binarySize:], text)
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
	return b
}

// split is LUKS1's anti-forensic splitter (LUKS1 On-Disk Format Specification
// 1.2.3, section 2.4) with SHA-256: random stripes, and a last one that gives
// back the key only with all of them.
func split(out, key, random []byte) {
	copy(out, random)
	acc := make([]byte, len(key))
	defer clear(acc)
	for s := range stripes - 1 {
		for i := range acc {
			acc[i] ^= random[s*len(key)+i]
		}
		diffuse(acc)
	}
	last := out[len(random):]
	for i := range acc {
		last[i] = acc[i] ^ key[i]
	}
}

func diffuse(b []byte) {
	for i := 0; i*sha256.Size < len(b); i++ {
		block := b[i*sha256.Size : min((i+1)*sha256.Size, len(b))]
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(i)), block...))
		copy(block, sum[:])
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// Header is what a disk's LUKS2 header says. Nothing in it is authenticated: it
// is for the owner to look at, and no guest reads it.
type Header struct {
	UUID       string
	Offset     int64  // bytes from the disk's start to the payload
	Size       int64  // bytes of payload; 0: up to the disk's end
	Encryption string // such as aes-xts-plain64
	SectorSize int    // bytes
	Keyslots   int
}

// Inspect parses the first copy of a disk's LUKS2 header.
func Inspect(r io.ReaderAt) (*Header, error) {
	be := binary.BigEndian
	head := make([]byte, binarySize)
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("%w: %w", ErrHeader, errors.Join(io.ErrUnexpectedEOF, err))
	}
	size := be.Uint64(head[8:])
	switch {
	case string(head[:6]) != "LUKS\xba\xbe" || be.Uint16(head[6:]) != 2:
		return nil, fmt.Errorf("%w: it does not start with LUKS2's magic", ErrHeader)
	case size < headerSize || size > maxHeaderSize || size&(size-1) != 0:
		return nil, fmt.Errorf("%w: its size field says %d", ErrHeader, size)
	case cString(head[72:104]) != "sha256" || be.Uint64(head[256:]) != 0:
		return nil, fmt.Errorf("%w: checksum %q at offset %d", ErrHeader, cString(head[72:104]), be.Uint64(head[256:]))
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrHeader, errors.Join(io.ErrUnexpectedEOF, err))
	}
	var sum [64]byte
	copy(sum[:], b[448:512])
	clear(b[448:512])
	want := sha256.Sum256(b)
	if !bytes.Equal(sum[:32], want[:]) || !bytes.Equal(sum[32:], make([]byte, 32)) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrHeader)
	}
	return parseJSON(cString(head[168:208]), bytes.TrimRight(b[binarySize:], "\x00"))
}

func parseJSON(uuid string, text []byte) (*Header, error) {
	var j luksJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("%w: JSON area: %w", ErrHeader, err)
	}
	s, ok := j.Segments["0"]
	if !ok || len(j.Segments) != 1 || s.Type != "crypt" {
		return nil, fmt.Errorf("%w: it has no single crypt segment", ErrHeader)
	}
	h := &Header{UUID: uuid, Encryption: s.Encryption, SectorSize: s.SectorSize, Keyslots: len(j.Keyslots)}
	var err error
	if h.Offset, err = strconv.ParseInt(s.Offset, 10, 64); err != nil || h.Offset < 0 {
		return nil, fmt.Errorf("%w: segment offset %.30q", ErrHeader, s.Offset)
	}
	if s.Size == "dynamic" {
		return h, nil
	}
	if h.Size, err = strconv.ParseInt(s.Size, 10, 64); err != nil || h.Size <= 0 {
		return nil, fmt.Errorf("%w: segment size %.30q", ErrHeader, s.Size)
	}
	return h, nil
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
