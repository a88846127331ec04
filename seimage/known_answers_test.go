package seimage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// Key numbers of s390-tools' own tests (rust/pv/tests/assets/keys: the scalar of
// private_cust.bin, the point in host.pem.crt).
const (
	hostPoint = "04" +
		"0176881cd84b8b6de7123c7e900edf78e7f7b684999146b1263ba8b86c8447f08ab6d469c2b128ed9e1c35015805acd3d30233d39122f7e2f8aa1c2b147b7883b406" +
		"00c34556c25cf92f29ce66bd44114d6b7b3c78e13a3f90bdb90040f6876e5262f778a61a937d1b34802eb257e34e0672dd5f2a347addaa282035092a70c35c2e7973"
)

func knownKeys(t *testing.T) (*ecdh.PrivateKey, *ecdh.PublicKey) {
	t.Helper()
	scalar, err := hex.DecodeString(strings.Repeat("88", 64))
	if err != nil {
		t.Fatal(err)
	}
	customer, err := ecdh.P521().NewPrivateKey(append([]byte{0x00, 0x01}, scalar...))
	if err != nil {
		t.Fatal(err)
	}
	point, err := hex.DecodeString(hostPoint)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ecdh.P521().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	return customer, host
}

func filled(n int, b byte) secret.Bytes { return bytes.Repeat([]byte{b}, n) }

// The key slot in rust/pv/tests/assets/exp/keyslot.bin.
func TestKnownKeySlot(t *testing.T) {
	t.Parallel()
	key, host := knownKeys(t)
	slot, err := wrapSlot(&customer{key.Bytes()}, host, filled(32, 0x17))
	if err != nil {
		t.Fatal(err)
	}
	raw := append(append(slot.HostHash[:], slot.Wrapped[:]...), slot.Tag[:]...)
	const want = "26da705b572e6578c679e75f152268ae720145b15b00728dc84533a5816b235c"
	if got := fmt.Sprintf("%x", sha256.Sum256(raw)); got != want || len(raw) != SlotSize {
		t.Errorf("slot %x has SHA-256 %s, wants %s", raw, got, want)
	}
}

// The whole header of builder_test in rust/pvimg/src/pv_utils/se_hdr/builder.rs.
func TestKnownHeader(t *testing.T) {
	t.Parallel()
	key, host := knownKeys(t)
	slot, err := wrapSlot(&customer{key.Bytes()}, host, filled(32, 0x32))
	if err != nil {
		t.Fatal(err)
	}
	h := &Header{NEP: 1, Slots: []KeySlot{slot}}
	copy(h.IV[:], filled(ivSize, 0x33))
	copy(h.PLD[:], filled(64, 2))
	copy(h.ALD[:], filled(64, 1))
	copy(h.TLD[:], filled(64, 3))
	if h.CustomerKey, err = hostkey.Coordinates(key.PublicKey()); err != nil {
		t.Fatal(err)
	}
	s := &Secrets{CommKey: filled(32, 0x31), ImageKey: filled(64, 3), PSW: PSW{Mask: 5678, Addr: 1234}}
	if err := h.Seal(filled(32, 0x32), s); err != nil {
		t.Fatal(err)
	}
	raw := h.Marshal()
	if sum := fmt.Sprintf("%x", sha256.Sum256(raw)); len(raw) != 640 || !strings.HasPrefix(sum, "9aea8b25") {
		t.Errorf("header of %d bytes has SHA-256 %s", len(raw), sum)
	}
	opened, err := h.Open(filled(32, 0x32))
	if err != nil || opened.PSW != s.PSW || !bytes.Equal(opened.ImageKey, s.ImageKey) || !bytes.Equal(opened.CommKey, s.CommKey) {
		t.Errorf("opened: %v", err)
	}
}

// The digests of prepare_aligned_component_test in
// rust/pvimg/src/pv_utils/secured_comp.rs.
func TestKnownDigests(t *testing.T) {
	t.Parallel()
	c, err := xts.New(append(filled(32, 0x42), filled(32, 0x43)...))
	if err != nil {
		t.Fatal(err)
	}
	d := NewDigester()
	for _, comp := range []struct {
		addr uint64
		data []byte
	}{{0x10000, append(filled(0x3400, 1), filled(0xc00, 0)...)}, {0x20000, filled(0x3000, 2)}} {
		for at := uint64(0); at < uint64(len(comp.data)); at += PageSize {
			page := comp.data[at : at+PageSize]
			c.Encrypt(page, page, PageTweak(0x42, at))
		}
		d.Add(comp.data, comp.addr, 0x42, 0)
	}
	got := d.Sum()
	for name, c := range map[string]struct {
		got  [64]byte
		want string
	}{
		"ALD": {got.ALD, "c391de5727a08212ea2fea9c37f9cf090be51f93c6d521b8906332ce720c5f38ada0e73e69663e5211d015fef41dc62606f5135e619904d4f450ab889f49caad"},
		"PLD": {got.PLD, "a24ff30a8af1295888dedfe9369eb509290309a90159ebc32ca26a53f9d4364a781857e2590587536c3e767355c7b7603f2b0c6a407f16330d82128d0964fad2"},
		"TLD": {got.TLD, "424fe3cf"},
	} {
		if !strings.HasPrefix(hex.EncodeToString(c.got[:]), c.want) {
			t.Errorf("%s is %x", name, c.got)
		}
	}
	if got.NEP != 7 {
		t.Errorf("%d pages", got.NEP)
	}
}
