package rootdisk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
)

// The header's bytes for fixed inputs: what cryptsetup accepted once.
func TestGoldenHeader(t *testing.T) {
	t.Parallel()
	r := &randoms{stripes: bytes.Repeat([]byte{7}, KeySize*(stripes-1))}
	v := &Volume{ID: [16]byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89}, Offset: payloadOffset, Size: 64 << 20}
	both, slot, err := header(v, testKey, testPass, r)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x %x", sha256.Sum256(both), sha256.Sum256(slot)); got != goldenHeader {
		t.Errorf("header and slot are %s", got)
	}
	h, err := Inspect(bytes.NewReader(both))
	if err != nil {
		t.Fatal(err)
	}
	want := Header{UUID: "01020304-0506-4708-8900-000000000000", Offset: 16 << 20, Size: 64 << 20, Encryption: "aes-xts-plain64", SectorSize: 4096, Keyslots: 1}
	if *h != want {
		t.Errorf("got %+v", h)
	}
	for _, at := range []int{0, 7, 9, 72, 104, 170, 256, 448, 500, 4096, 5000, 16000} {
		bad := bytes.Clone(both)
		bad[at] ^= 1
		if _, err := Inspect(bytes.NewReader(bad)); !errors.Is(err, ErrHeader) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
	for _, n := range []int{0, 4095, 4096, 16383} {
		if _, err := Inspect(bytes.NewReader(both[:n])); !errors.Is(err, ErrHeader) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	both, _, err := header(&Volume{Offset: payloadOffset, Size: 1 << 20}, testKey, testPass, newRandoms())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(both[binarySize : 2*binarySize])
	f.Add([]byte(`{"segments":{"0":{"type":"crypt","offset":"-1","size":"dynamic"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := parseJSON("", bytes.TrimRight(text, "\x00"))
		if err == nil && (h.Offset < 0 || h.Size < 0) {
			t.Errorf("accepted %+v", h)
		}
	})
}

// goldenHeader is SHA-256 of the header and of the key slot in TestGoldenHeader.
const goldenHeader = "0956309a9acf33dc8c4fd014226e8a1163ab2aac84f102b8c050558abbbd9910 a3b3ae4dad0a91af4fd7d4257c473124781ae3bafae0281e2b7bad30de50ed07"
