package luks2

import (
	"bytes"
	oracle "crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"testing"
)

func TestPBKDF2IsTheStandardLibrarys(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New} {
		for _, size := range []int{1, 20, 32, 33, 64, 129} {
			for _, pass := range []string{"p", string(bytes.Repeat([]byte{0xfe}, 200))} {
				want, err := oracle.Key(h, pass, []byte("salt of 16 bytes"), 7, size)
				if err != nil {
					t.Fatal(err)
				}
				if got := pbkdf2(h, []byte(pass), []byte("salt of 16 bytes"), 7, size); !bytes.Equal(got, want) {
					t.Errorf("%s, %d bytes: got %x, wants %x", name, size, []byte(got), want)
				}
			}
		}
	}
}
