package xts

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"strings"
	"testing"
)

// vectors are described in their own head.
//
//go:embed testdata/vectors.txt
var vectors string

// TestVectors runs the published vectors through each engine. Those that need
// ciphertext stealing must be refused.
func TestVectors(t *testing.T) {
	t.Parallel()
	ran, stealing := map[string]int{}, 0
	for line := range strings.Lines(vectors) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 5 {
			t.Fatalf("%.40s…: %d fields, wants 5", line, len(fields))
		}
		var b [4][]byte
		for i := range b {
			var err error
			if b[i], err = hex.DecodeString(fields[1+i]); err != nil {
				t.Fatalf("%s: %v", fields[0], err)
			}
		}
		key, plain, cipher := b[0], b[2], b[3]
		var tweak Tweak
		copy(tweak[:], b[1])
		if len(plain)%BlockSize != 0 {
			stealing++
			c, err := New(key)
			if err != nil {
				t.Fatalf("%s: %v", fields[0], err)
			}
			mustPanic(t, fields[0], func() { c.Encrypt(make([]byte, len(plain)), plain, tweak) })
			continue
		}
		source, _, _ := strings.Cut(fields[0], "-")
		ran[source]++
		for name, newEngine := range engines() {
			e := newEngine(key)
			got := make([]byte, len(plain))
			if e.encrypt(got, plain, tweak); !bytes.Equal(got, cipher) {
				t.Errorf("%s, %s: encrypts to %x, wants %x", fields[0], name, got, cipher)
			}
			if e.decrypt(got, cipher, tweak); !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: decrypts to %x, wants %x", fields[0], name, got, plain)
			}
		}
	}
	if ran["ieee1619"] != 5 || ran["wycheproof"] != 21 || stealing != 20 {
		t.Errorf("ran %v and left out %d, wants 5 of ieee1619, 21 of wycheproof, 20 left out", ran, stealing)
	}
	t.Logf("left out: %d vectors that need ciphertext stealing", stealing)
}
