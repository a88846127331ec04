package ultravisor

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
	"github.com/secexec/secexec/seimage"
)

var update = flag.Bool("update", false, "rewrite vectors, but for the one that genprotimg made")

const vectorDir = "../docs/formats/vectors/se-image"

// vectorFields are the values that these vectors have.
var vectorFields = []string{"host-key", "header-key", "kernel", "initrd", "cmdline"}

// vectorClasses are the errors behind the vectors' verdicts, as refusalClasses
// are firmware's codes.
var vectorClasses = map[string]error{
	"no-image": seimage.ErrNotImage, "truncated": seimage.ErrTruncated, "metadata": seimage.ErrMetadata,
	"header-magic": seimage.ErrHeaderMagic, "header-version": seimage.ErrHeaderVersion, "header-size": seimage.ErrHeaderSize,
	"encrypted-size": seimage.ErrEncryptedSize, "no-key-slots": seimage.ErrNoSlots, "reserved": seimage.ErrReserved,
	"ipib": seimage.ErrIPIB, "no-slot-for-host": seimage.ErrNoSlotForHost, "customer-key": seimage.ErrCustomerKey,
	"slot-tag": seimage.ErrSlotTag, "header-tag": seimage.ErrHeaderTag, "optional-items": seimage.ErrOptionalItems, "parts": ErrParts,
}

var refusalClasses = map[[2]uint16]string{
	{rcVerify, rrcNEP}: "page-count", {rcVerify, rrcALD}: "addresses", {rcVerify, rrcPLD}: "pages", {rcVerify, rrcTLD}: "tweaks",
	{rcPCF, rrcPCF}: "plain-text-flags", {rcSCF, rrcSCF}: "secret-flags",
}

// classOf puts a verdict into the vectors' words.
func classOf(err error) string {
	if err == nil {
		return "ok"
	}
	for class, target := range vectorClasses {
		if errors.Is(err, target) {
			return class
		}
	}
	var r *Refusal
	if !errors.As(err, &r) {
		return "another error"
	}
	return refusalClasses[[2]uint16{r.RC, r.RRC}]
}

// Another implementation that reads them must come to the same verdicts.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	verdicts := slices.Concat([]string{"ok"}, slices.Collect(maps.Keys(vectorClasses)), slices.Collect(maps.Values(refusalClasses)))
	vectors.Walk(t, vectorDir, verdicts, vectorFields, func(t *testing.T, v *vectors.Vector) {
		host, err := ecdh.P521().NewPrivateKey(v.Hex(t, "host-key"))
		if err != nil {
			t.Fatal(err)
		}
		want := v.Expect
		u, err := OpenFile(bytes.NewReader(v.Body), int64(len(v.Body)), host)
		checkVector(t, "host", v, want, u, err)
		if slices.Contains([]string{"no-slot-for-host", "customer-key", "slot-tag"}, want) {
			want = "ok" // who holds the header key looks at no slot
			if v.Get("comment") == changedSlot {
				want = "header-tag"
			}
		}
		u, err = OpenFileAsOwner(bytes.NewReader(v.Body), int64(len(v.Body)), v.Hex(t, "header-key"))
		checkVector(t, "owner", v, want, u, err)
	})
}

func checkVector(t *testing.T, who string, v *vectors.Vector, want string, u *Unpacked, err error) {
	t.Helper()
	if got := classOf(err); got != want {
		t.Errorf("%s: %s (%v), wants %s", who, got, err, want)
		return
	}
	if err != nil {
		return
	}
	defer u.Wipe()
	for name, part := range map[string]func() (io.Reader, int64){"kernel": u.Kernel, "initrd": u.Initrd, "cmdline": u.Cmdline} {
		r, _ := part()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(b)); got != v.Get(name) {
			t.Errorf("%s: %s has SHA-256 %s, wants %s", who, name, got, v.Get(name))
		}
	}
}

const changedSlot = "the key slot's tag has a flipped bit"

// vectorHost is the host of all vectors: scalar 0x0077 77...
func vectorHost(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P521(), append([]byte{0, 0x77}, bytes.Repeat([]byte{0x77}, 64)...))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// writeVectors makes the vectors anew from one small image in plain text.
func writeVectors(t *testing.T) {
	host := vectorHost(t)
	scalar, err := host.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	plain := seimage.DefaultFlags | seimage.NoEncryption
	base := func(change func(*seimage.Spec)) *sealed {
		s, err := create(func(spec *seimage.Spec) {
			spec.Hosts = []*ecdsa.PublicKey{&host.PublicKey}
			spec.HeaderKey = bytes.Repeat([]byte{0x32}, seimage.HeaderKeySize)
			if change != nil {
				change(spec)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		s.headerKey = bytes.Repeat([]byte{0x32}, seimage.HeaderKeySize)
		return s
	}
	s := base(func(spec *seimage.Spec) { spec.PCF = &plain })
	h, ipib, header := s.summary.HeaderAddr, s.summary.IPIBAddr, s.header(t)
	put32 := func(at uint64, n uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], n); return b }
	}
	put64 := func(at, n uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], n); return b }
	}
	flip := func(at uint64) func([]byte) []byte { return func(b []byte) []byte { b[at] ^= 1; return b } }
	reseal := func(change func(*seimage.Header, *seimage.Secrets)) func([]byte) []byte {
		return func(b []byte) []byte { s.reseal(t, b, change); return b }
	}
	kernel := s.summary.IPIB.Components[0]
	for _, v := range []struct {
		name, expect, comment string
		change                func([]byte) []byte
	}{
		{"ok-plain", "ok", "components in plain text", nil},
		{"ok-encrypted", "ok", "as secexec and pvimg write images by default", func([]byte) []byte { return base(nil).bytes }},
		{"ok-without-metadata", "ok", "what needs no metadata is found by the loader's arguments", func(b []byte) []byte { clear(b[seimage.MetadataAddr:][:28]); return b }},
		{"ok-ipib-reserved", "ok", "reserved bytes of the IPIB are ignored", flip(ipib + 100)},
		{"no-image-empty", "no-image", "an empty file", func([]byte) []byte { return nil }},
		{"no-image-text", "no-image", "text", func([]byte) []byte { return bytes.Repeat([]byte("text "), 20000) }},
		{"no-image-metadata-version", "no-image", "metadata of version 2", put32(seimage.MetadataAddr+16, 2)},
		{"no-image-header-outside", "no-image", "the metadata's header address lies outside of the file", put64(seimage.MetadataAddr+8, 1<<63)},
		{"metadata-ipib", "metadata", "the metadata names another IPIB than the loader's arguments", func(b []byte) []byte {
			return put64(seimage.MetadataAddr+20, uint64(len(b)))(append(b, b[ipib:]...))
		}},
		{"truncated", "truncated", "the file ends before the IPIB", func(b []byte) []byte { return b[:ipib] }},
		{"truncated-component", "truncated", "a component ends outside of the file", put64(ipib+8+128+3*24+16, 1<<30)},
		{"header-magic", "header-magic", "the metadata names a page that is no header", put64(seimage.MetadataAddr+8, 0x1000)},
		{"header-version", "header-version", "version 0x200", put32(h+8, 0x200)},
		{"header-size", "header-size", "one byte less than its parts", put32(h+12, uint32(header.Size()-1))},
		{"header-size-huge", "header-size", "more than 8192 bytes", put32(h+12, 1<<31)},
		{"header-slots-huge", "header-size", "so many key slots that their size overflows", put64(h+32, 1<<60)},
		{"no-key-slots", "no-key-slots", "no key slot", put64(h+32, 0)},
		{"encrypted-size", "encrypted-size", "an encrypted area of 0 bytes", put64(h+40, 0)},
		{"reserved", "reserved", "a reserved byte of the header is not zero", flip(h + 28)},
		{"ipib-type", "ipib", "block type 4", flip(ipib + 12)},
		{"ipib-length", "ipib", "longer than a page", put32(ipib, 4097)},
		{"ipib-components", "ipib", "more components than the block holds", put32(ipib+8+108, 1<<30)},
		{"ipib-none", "ipib", "no component", put32(ipib+8+108, 0)},
		{"ipib-unaligned", "ipib", "a component that does not start on a page", flip(ipib + 8 + 128 + 15)},
		{"ipib-wraps", "ipib", "a component that ends behind the end of the address space", put64(ipib+8+128+16, 1<<64-4096)},
		{"ipib-tweaks", "ipib", "tweak prefixes do not grow", put64(ipib+8+128+24, 0)},
		{"no-slot-for-host", "no-slot-for-host", "sealed for another host", func([]byte) []byte {
			return base(func(spec *seimage.Spec) {
				spec.PCF = &plain
				spec.Hosts = []*ecdsa.PublicKey{&testHosts()[0].PublicKey}
			}).bytes
		}},
		{"customer-key", "customer-key", "the customer key is no point on P-521", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.CustomerKey[159] ^= 1 })},
		{"slot-tag", "slot-tag", changedSlot, flip(h + 416 + 64)},
		{"header-tag-flags", "header-tag", "PCKMO HMAC was switched on", func(b []byte) []byte { b[h+63] ^= byte(seimage.PCKMOHMAC); return b }},
		{"header-tag-encrypted", "header-tag", "the encrypted area has a flipped bit", flip(h + 416 + 80)},
		{"optional-items", "optional-items", "one optional item", func(b []byte) []byte {
			s.resealRaw(t, b, func(p []byte) []byte { p[123] = 1; return p })
			return b
		}},
		{"plain-text-flags", "plain-text-flags", "an unknown flag, authentic", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.PCF |= 1 })},
		{"secret-flags", "secret-flags", "an unknown secret flag", reseal(func(_ *seimage.Header, s *seimage.Secrets) { s.SCF |= 1 })},
		{"pages", "pages", "a bit of the kernel is flipped", flip(kernel.Addr + 0x10100)},
		{"page-count", "page-count", "the header counts a page more", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.NEP++ })},
		{"addresses", "addresses", "the command line's and stage3b's pages lie one page later", func(b []byte) []byte {
			at := s.summary.IPIB.Components[2].Addr
			grown := slices.Insert(b, int(at), make([]byte, seimage.PageSize)...)
			moved := ipib + seimage.PageSize
			for i := uint64(2); i < 4; i++ {
				e := grown[moved+8+128+24*i+8:]
				binary.BigEndian.PutUint64(e, binary.BigEndian.Uint64(e)+seimage.PageSize)
			}
			binary.BigEndian.PutUint64(grown[seimage.MetadataAddr+20:], moved)
			args := s.args(t)
			binary.BigEndian.PutUint64(grown[args+16:], moved-args)
			return grown
		}},
		{"tweaks", "tweaks", "the kernel's tweak prefix differs", put64(ipib+8+128, kernel.TweakPrefix^1)},
		{"parts", "parts", "the guest starts in a component that is no stage3b", reseal(func(_ *seimage.Header, s *seimage.Secrets) { s.PSW.Addr = kernel.Addr })},
	} {
		body := bytes.Clone(s.bytes)
		if v.change != nil {
			body = v.change(body)
		}
		lines := fmt.Sprintf("expect: %s\ncomment: %s\nhost-key: %x\nheader-key: %s\n", v.expect, v.comment, scalar, hex.EncodeToString(s.headerKey))
		if v.expect == "ok" || v.expect == "no-slot-for-host" || v.expect == "customer-key" {
			lines += fmt.Sprintf("kernel: %x\ninitrd: %x\ncmdline: %x\n", sha256.Sum256(s.kernel), sha256.Sum256(s.initrd), sha256.Sum256(s.cmdline))
		}
		vectors.Write(t, vectorDir, v.name, lines, body, true)
	}
}

// args is the address of stage3a's arguments.
func (s *sealed) args(t *testing.T) uint64 {
	t.Helper()
	img, err := seimage.Open(bytes.NewReader(s.bytes), int64(len(s.bytes)))
	if err != nil {
		t.Fatal(err)
	}
	return img.ArgsAddr
}
