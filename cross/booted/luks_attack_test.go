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
	{"both copies zeroed", func(h []byte) { clear(h) }},
	{"first copy zeroed", func(h []byte) { clear(h[:luksCopy]) }},
	{"second copy zeroed", func(h []byte) { clear(h[luksCopy : 2*luksCopy]) }},
	{"key slots zeroed", func(h []byte) { clear(h[2*luksCopy:]) }},
	{"random bytes", func(h []byte) {
		var seed [32]byte
		_, _ = rand.NewChaCha8(seed).Read(h)
	}},
	{"another UUID", func(h []byte) {
		copy(h[168:], "00000000-0000-4000-8000-000000000000")
		checksum(h[:luksCopy])
	}},
	{"another label", func(h []byte) {
		copy(h[24:], "rootfs\x00")
		checksum(h[:luksCopy])
	}},
	{"version 1's magic", func(h []byte) { binary.BigEndian.PutUint16(h[6:], 1) }},
	{"a version to come", func(h []byte) {
		binary.BigEndian.PutUint16(h[6:], 3)
		checksum(h[:luksCopy])
	}},
	{"header size of 2^63", func(h []byte) {
		binary.BigEndian.PutUint64(h[8:], 1<<63)
		checksum(h[:luksCopy])
	}},
	{"checksum that does not fit", func(h []byte) { h[448] ^= 1 }},
	{"second copy newer, with the null cipher", func(h []byte) {
		rewrite(replaced("aes-xts-plain64", "cipher_null-ecb"), 1)(h)
		b := h[luksCopy : 2*luksCopy]
		binary.BigEndian.PutUint64(b[16:], 1<<40)
		checksum(b)
	}},
	{"null cipher in key slots and segment", rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "cipher_null-ecb") }, 0, 1)},
	{"another cipher", rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "aes-cbc-essiv:sha256") }, 0, 1)},
	{"a plain segment", rewrite(replaced(`"type":"crypt"`, `"type":"linear"`), 0, 1)},
	{"segment elsewhere", rewrite(replaced(`"offset":"16777216"`, `"offset":"20971520"`), 0, 1)},
	{"segment of another size", rewrite(replaced(`","iv_tweak"`, `0","iv_tweak"`), 0, 1)},
	{"sectors of 512 bytes", rewrite(replaced(`"sector_size":4096`, `"sector_size":512`), 0, 1)},
	{"another IV offset", rewrite(replaced(`"iv_tweak":"0"`, `"iv_tweak":"8"`), 0, 1)},
	{"integrity that is not there", rewrite(replaced(`"sector_size":4096`, `"sector_size":4096,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`), 0, 1)},
	{"another digest", rewrite(replaced(`"digest":"`, `"digest":"AAAA`), 0, 1)},
	{"no digests", rewrite(replaced(`"digests":{`, `"digests":{},"x":{`), 0, 1)},
	{"no key slots", rewrite(replaced(`"keyslots":{`, `"keyslots":{},"x":{`), 0, 1)},
	{"re-encryption under way", rewrite(replaced(`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v3"]},`), 0, 1)},
	{"a requirement nobody knows", rewrite(replaced(`"config":{`, `"config":{"requirements":{"mandatory":["be-nice"]},`), 0, 1)},
	{"a token that names a key", rewrite(replaced(`"tokens":{`, `"tokens":{"0":{"type":"luks2-keyring","keyslots":["0"],"key_description":"user:stolen"}`), 0, 1)},
	{"JSON nested 3,000 deep", rewrite(func(string) string { return strings.Repeat(`{"a":`, 1500) + strings.Repeat("[", 1500) }, 0, 1)},
	{"JSON without an end", rewrite(func(s string) string { return s[:len(s)/2] }, 0, 1)},
	{"JSON with huge numbers", rewrite(replaced(`"sector_size":4096`, `"sector_size":1e999999`), 0, 1)},
	{"JSON with each name twice", rewrite(replaced(`"config":{`, `"segments":{"0":{"type":"linear","offset":"0","size":"dynamic"}},"config":{`), 0, 1)},
	{"an ext4 superblock in front", magicAt(1024+56, "\x53\xef")},
	{"a partition table in front", magicAt(510, "\x55\xaa")},
	{"a GUID partition table in front", magicAt(512, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")},
	{"LVM's label in front", magicAt(512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001")},
	{"an md superblock in front", magicAt(4096, bytesOf("fc4e2ba901000000"))},
	{"a btrfs superblock in front", magicAt(64<<10+64, "_BHRfS_M")},
	{"swap space in front", magicAt(4086, "SWAPSPACE2")},
	{"dm-integrity's superblock in front", magicAt(0, "integrt\x00\x05")},
	{"dm-verity's superblock in front", magicAt(0, "verity\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00")},
}
