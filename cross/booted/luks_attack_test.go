package booted

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// Sizes of a LUKS2 header as owner's disks have it: two copies of a binary part
// and a JSON area, then key slots, then the payload.
const (
	luksBinary  = 4096
	luksCopy    = 16 << 10
	luksPayload = 16 << 20
)

// headerAttack changes what lies before the payload. None may have any effect:
// the guest never reads it.
type headerAttack struct {
	name   string
	change func(header []byte)
	quick  bool // in make test, too
}

// rewrite changes the JSON area of copies of the header, 0 and 1, and makes their
// checksums fit.
func rewrite(edit func(text string) string, copies ...int) func([]byte) {
	return func(header []byte) {
		for _, n := range copies {
			b := header[n*luksCopy : (n+1)*luksCopy]
			text := edit(string(bytes.TrimRight(b[luksBinary:], "\x00")))
			clear(b[luksBinary:])
			copy(b[luksBinary:], text)
			checksum(b)
		}
	}
}

func checksum(b []byte) {
	clear(b[448:512])
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
}

func replaced(old, new string) func(string) string {
	return func(text string) string {
		if !strings.Contains(text, old) {
			panic("the header has no " + old)
		}
		return strings.Replace(text, old, new, 1)
	}
}

func magicAt(at int, magic string) func([]byte) {
	return func(header []byte) { copy(header[at:], magic) }
}

func bytesOf(hexText string) string {
	b, err := hex.DecodeString(hexText)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// headerAttacks are attacks that a guest which believes its disk falls to.
var headerAttacks = []headerAttack{
	{name: "both copies zeroed", change: func(h []byte) { clear(h) }, quick: true},
	{name: "first copy zeroed", change: func(h []byte) { clear(h[:luksCopy]) }},
	{name: "second copy zeroed", change: func(h []byte) { clear(h[luksCopy : 2*luksCopy]) }},
	{name: "key slots zeroed", change: func(h []byte) { clear(h[2*luksCopy:]) }},
	{name: "random bytes", change: func(h []byte) {
		var seed [32]byte
		_, _ = rand.NewChaCha8(seed).Read(h)
	}},
	{name: "another UUID", change: func(h []byte) {
		copy(h[168:], "00000000-0000-4000-8000-000000000000")
		checksum(h[:luksCopy])
	}},
	{name: "another label", change: func(h []byte) {
		copy(h[24:], "rootfs\x00")
		checksum(h[:luksCopy])
	}},
	{name: "version 1's magic", change: func(h []byte) { binary.BigEndian.PutUint16(h[6:], 1) }},
	{name: "a version to come", change: func(h []byte) {
		binary.BigEndian.PutUint16(h[6:], 3)
		checksum(h[:luksCopy])
	}},
	{name: "header size of 2^63", change: func(h []byte) {
		binary.BigEndian.PutUint64(h[8:], 1<<63)
		checksum(h[:luksCopy])
	}},
	{name: "checksum that does not fit", change: func(h []byte) { h[448] ^= 1 }},
	{name: "second copy newer, with the null cipher", change: func(h []byte) {
		rewrite(replaced("aes-xts-plain64", "cipher_null-ecb"), 1)(h)
		b := h[luksCopy : 2*luksCopy]
		binary.BigEndian.PutUint64(b[16:], 1<<40)
		checksum(b)
	}},
	{name: "null cipher in key slots and segment", change: rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "cipher_null-ecb") }, 0, 1)},
	{name: "another cipher", change: rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "aes-cbc-essiv:sha256") }, 0, 1)},
	{name: "a plain segment", change: rewrite(replaced(`"type":"crypt"`, `"type":"linear"`), 0, 1)},
	{name: "segment elsewhere", change: rewrite(replaced(`"offset":"16777216"`, `"offset":"20971520"`), 0, 1)},
	{name: "segment of another size", change: rewrite(replaced(`","iv_tweak"`, `0","iv_tweak"`), 0, 1)},
	{name: "sectors of 512 bytes", change: rewrite(replaced(`"sector_size":4096`, `"sector_size":512`), 0, 1)},
	{name: "another IV offset", change: rewrite(replaced(`"iv_tweak":"0"`, `"iv_tweak":"8"`), 0, 1)},
	{name: "integrity that is not there", change: rewrite(replaced(`"sector_size":4096`, `"sector_size":4096,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`), 0, 1)},
	{name: "another digest", change: rewrite(replaced(`"digest":"`, `"digest":"AAAA`), 0, 1)},
	{name: "no digests", change: rewrite(replaced(`"digests":{`, `"digests":{},"x":{`), 0, 1)},
	{name: "no key slots", change: rewrite(replaced(`"keyslots":{`, `"keyslots":{},"x":{`), 0, 1)},
	{name: "re-encryption under way", change: rewrite(replaced(`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v3"]},`), 0, 1)},
	{name: "a requirement nobody knows", change: rewrite(replaced(`"config":{`, `"config":{"requirements":{"mandatory":["be-nice"]},`), 0, 1)},
	{name: "a token that names a key", change: rewrite(replaced(`"tokens":{`, `"tokens":{"0":{"type":"luks2-keyring","keyslots":["0"],"key_description":"user:stolen"}`), 0, 1)},
	{name: "JSON nested 3,000 deep", change: rewrite(func(string) string { return strings.Repeat(`{"a":`, 1500) + strings.Repeat("[", 1500) }, 0, 1)},
	{name: "JSON without an end", change: rewrite(func(s string) string { return s[:len(s)/2] }, 0, 1)},
	{name: "JSON with huge numbers", change: rewrite(replaced(`"sector_size":4096`, `"sector_size":1e999999`), 0, 1)},
	{name: "JSON with each name twice", change: rewrite(replaced(`"config":{`, `"segments":{"0":{"type":"linear","offset":"0","size":"dynamic"}},"config":{`), 0, 1)},
	{name: "an ext4 superblock in front", change: magicAt(1024+56, "\x53\xef")},
	{name: "a partition table in front", change: magicAt(510, "\x55\xaa")},
	{name: "a GUID partition table in front", change: magicAt(512, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")},
	{name: "LVM's label in front", change: magicAt(512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001")},
	{name: "an md superblock in front", change: magicAt(4096, bytesOf("fc4e2ba901000000"))},
	{name: "a btrfs superblock in front", change: magicAt(64<<10+64, "_BHRfS_M")},
	{name: "swap space in front", change: magicAt(4086, "SWAPSPACE2")},
	{name: "dm-integrity's superblock in front", change: magicAt(0, "integrt\x00\x05")},
	{name: "dm-verity's superblock in front", change: magicAt(0, "verity\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00")},
}
