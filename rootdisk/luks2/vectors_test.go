package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
	"github.com/secexec/secexec/secret"
)

var update = flag.Bool("update", false, "rewrite vectors")

const vectorDir = "../../docs/formats/vectors/luks2-header"

// Another implementation that reads them must come to the same verdicts.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	names := []string{"volume-key", "uuid", "label", "payload", "damaged"}
	vectors.Walk(t, vectorDir, []string{"ok", "invalid", "unsupported", "wrong-key"}, names, func(t *testing.T, v *vectors.Vector) {
		h, err := Parse(bytes.NewReader(v.Body))
		if err == nil {
			err = h.CheckKey(v.Hex(t, "volume-key"))
		}
		want := map[string]error{"invalid": ErrHeader, "unsupported": ErrUnsupported, "wrong-key": ErrKey}[v.Expect]
		if !errors.Is(err, want) {
			t.Fatalf("got %v", err)
		}
		if want != nil {
			return
		}
		if got := fmt.Sprintf("%s %s %d %d %s", h.UUID, h.Label, h.Offset, h.Payload, h.Damaged); got != fmt.Sprintf("%s %s %s %s", v.Get("uuid"), v.Get("label"), v.Get("payload"), v.Get("damaged")) {
			t.Errorf("got %s", got)
		}
	})
}

func writeVectors(t *testing.T) {
	whole := area(t, Slot{testPass, RandomKey}, Slot{testPass, cheap})[:2*headerSize]
	first, text, err := parseBinary(whole[:headerSize])
	if err != nil {
		t.Fatal(err)
	}
	// both rewrites both copies, with checksums that fit.
	both := func(change func(*binaryHeader), old, new string) []byte {
		if !strings.Contains(string(text), old) {
			t.Fatalf("no %s in %s", old, text)
		}
		var b []byte
		for at := uint64(0); at <= headerSize; at += headerSize {
			h := *first
			h.Second, h.Offset = at > 0, at
			if change != nil {
				change(&h)
			}
			b = append(b, h.encode([]byte(strings.Replace(string(text), old, new, 1)))...)
		}
		return b
	}
	text1 := func(old, new string) []byte { return both(nil, old, new) }
	edit := func(change func([]byte)) []byte { b := bytes.Clone(whole); change(b); return b }
	raw := func(at int, value ...byte) []byte {
		return edit(func(b []byte) { copy(b[at:], value); copy(b[headerSize+at:], value) })
	}
	tagged := Layout{ID: layout.ID, Label: layout.Label, Size: layout.Size, Integrity: true}
	longKey := append(bytes.Clone(testKey), testPass[:32]...)
	withTags, err := encode(&tagged, longKey, []Slot{{testPass, RandomKey}}, sevens)
	if err != nil {
		t.Fatal(err)
	}
	other := func(old, new string) []byte {
		first, text, err := parseBinary(withTags[:headerSize])
		if err != nil || !bytes.Contains(text, []byte(old)) {
			t.Fatalf("%v, or no %s", err, old)
		}
		return append(first.encode(bytes.Replace(text, []byte(old), []byte(new), 1)), make([]byte, headerSize)...)
	}
	for _, v := range []struct {
		name, expect, comment, extra string
		body                         []byte
	}{
		{"ok", "ok", "two key slots, pbkdf2 and argon2id", "", whole},
		{"ok-first-damaged", "ok", "a bit of the first copy is flipped", "damaged: first\n", edit(func(b []byte) { b[5000] ^= 1 })},
		{"ok-second-damaged", "ok", "a bit of the second copy is flipped", "damaged: second\n", edit(func(b []byte) { b[headerSize+5000] ^= 1 })},
		{"ok-second-missing", "ok", "the second copy is zeros", "damaged: second\n", edit(func(b []byte) { clear(b[headerSize:]) })},
		{"ok-integrity", "ok", "integrity: a key of 96 bytes", "", withTags[:2*headerSize]},
		{"integrity-sha512", "unsupported", "integrity by another digest", "", other("hmac(sha256)", "hmac(sha512)")},
		{"integrity-journal", "unsupported", "a journal that is encrypted", "", other(`"journal_encryption":"none"`, `"journal_encryption":"ctr(aes)"`)},
		{"integrity-unknown", "invalid", "an unknown field of the integrity", "", other(`"journal_integrity":"none"`, `"journal_integrity":"none","more":1`)},
		{"wrong-key", "wrong-key", "the digest is of another volume key", "", whole},
		{"empty", "invalid", "nothing", "", nil},
		{"truncated", "invalid", "it ends within the first copy's JSON area", "", whole[:headerSize-1]},
		{"magic", "invalid", "no magic", "", raw(0, 'l')},
		{"luks1", "invalid", "version 1", "", raw(7, 1)},
		{"size-huge", "invalid", "the size field says 2^62", "", raw(atSize, 0x40)},
		{"size-odd", "invalid", "the size field is no power of two", "", edit(func(b []byte) {
			binary.BigEndian.PutUint64(b[atSize:], headerSize+4096)
			binary.BigEndian.PutUint64(b[headerSize+atSize:], headerSize+4096)
		})},
		{"checksum", "invalid", "both checksums are wrong", "", raw(atChecksum, 0, 0, 0, 0)},
		{"algorithm", "invalid", "a checksum algorithm that is not sha256", "", raw(atAlg, 's', 'h', 'a', '5', '1', '2')},
		{"label-padding", "invalid", "bytes after the label's end", "", raw(atLabel+10, 'x')},
		{"padding", "invalid", "padding that is not zero", "", raw(atPadding, 1)},
		{"place", "invalid", "copies that say they lie elsewhere", "", both(func(h *binaryHeader) { h.Offset += 512 }, "", "")},
		{"json-unknown-field", "invalid", "an unknown field", "", text1(`"config":{`, `"config":{"colour":"red",`)},
		{"json-field-twice", "invalid", "a field that stands twice", "", text1(`"iv_tweak":"0"`, `"iv_tweak":"0","iv_tweak":"0"`)},
		{"json-cut", "invalid", "an object without end", "", text1(`"tokens":{}`, `"tokens":{`)},
		{"json-size", "invalid", "json_size that is not the area's", "", text1(`"json_size":"12288"`, `"json_size":"12287"`)},
		{"json-number", "invalid", "a number with a leading zero", "", text1(`"offset":"16777216"`, `"offset":"016777216"`)},
		{"json-negative", "invalid", "a negative offset", "", text1(`"offset":"16777216"`, `"offset":"-512"`)},
		{"segment-unaligned", "invalid", "a payload that starts within a sector", "", text1(`"offset":"16777216"`, `"offset":"16777217"`)},
		{"segment-overflow", "invalid", "a payload that ends behind 2^63", "", text1(`"size":"67108864"`, `"size":"9223372036854775296"`)},
		{"segment-sector", "invalid", "sectors of 8192 bytes", "", text1(`"sector_size":4096`, `"sector_size":8192`)},
		{"segment-none", "invalid", "no segment 0", "", text1(`"segments":{"0"`, `"segments":{"1"`)},
		{"segment-linear", "invalid", "a segment that is not encrypted", "", text1(`"type":"crypt"`, `"type":"linear"`)},
		{"slot-area", "invalid", "a key slot's area in the header", "", text1(`"offset":"32768"`, `"offset":"4096"`)},
		{"slot-size", "invalid", "a key slot's area that is too small", "", text1(`"size":"258048"`, `"size":"4096"`)},
		{"slot-stripes", "invalid", "2000 stripes", "", text1(`"stripes":4000`, `"stripes":2000`)},
		{"digest-iterations", "invalid", "a digest without iterations", "", text1(`"segments":["0"],"hash":"sha256","iterations":1000`, `"segments":["0"],"hash":"sha256","iterations":0`)},
		{"cipher", "unsupported", "another cipher", "", text1(`"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"serpent-xts-plain64"`)},
		{"iv-tweak", "unsupported", "an IV offset", "", text1(`"iv_tweak":"0"`, `"iv_tweak":"8"`)},
		{"requirements", "unsupported", "a requirement, as of re-encryption that is under way", "", text1(`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`)},
	} {
		key := secret.Bytes(bytes.Clone(testKey))
		payload := layout.Size
		if strings.Contains(v.name, "integrity") {
			key, payload = longKey, 0
		}
		if v.expect == "wrong-key" {
			key[0] ^= 1
		}
		lines := fmt.Sprintf("expect: %s\ncomment: %s\nvolume-key: %x\n", v.expect, v.comment, []byte(key))
		if v.expect == "ok" {
			lines += fmt.Sprintf("uuid: %s\nlabel: %s\npayload: %d %d\n%s", first.UUID, first.Label, PayloadOffset, payload, v.extra)
		}
		vectors.Write(t, vectorDir, v.name, lines, v.body, true)
	}
}
