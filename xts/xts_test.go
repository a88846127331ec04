package xts

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"

	oracle "golang.org/x/crypto/xts"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// IEEE Std 1619-2007, annex B, vector 10 (XTS-AES-256, data unit 0xff).
func TestIEEE1619Vector10(t *testing.T) {
	t.Parallel()
	key := unhex(t, "2718281828459045235360287471352662497757247093699959574966967627"+
		"3141592653589793238462643383279502884197169399375105820974944592")
	plain := make([]byte, 512)
	for i := range plain {
		plain[i] = byte(i)
	}
	c, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 512)
	c.Encrypt(got, plain, SectorTweak(0xff))
	if want := unhex(t, "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"); !bytes.Equal(got[:32], want) {
		t.Errorf("first blocks %x, wants %x", got[:32], want)
	}
	c.Decrypt(got, got, SectorTweak(0xff))
	if !bytes.Equal(got, plain) {
		t.Error("does not decrypt to the plain text")
	}
}

func TestAgainstXCrypto(t *testing.T) {
	t.Parallel()
	rng := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{16, 32, 512, 4096, MaxUnit} {
		key, plain := make([]byte, KeySize), make([]byte, n)
		rng.Read(key)
		rng.Read(plain)
		ours, err := New(key)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := oracle.NewCipher(aes.NewCipher, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, sector := range []uint64{0, 1, 8, 1 << 40, ^uint64(0)} {
			got, want := make([]byte, n), make([]byte, n)
			ours.Encrypt(got, plain, SectorTweak(sector))
			theirs.Encrypt(want, plain, sector)
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes, sector %d: differs from x/crypto", n, sector)
			}
			ours.Decrypt(got, got, SectorTweak(sector))
			if !bytes.Equal(got, plain) {
				t.Errorf("%d bytes, sector %d: decrypts to something else", n, sector)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{nil, make([]byte, 32), make([]byte, 63), make([]byte, 65), bytes.Repeat([]byte{7}, 64)} {
		if _, err := New(key); !errors.Is(err, ErrKey) {
			t.Errorf("key of %d bytes: %v", len(key), err)
		}
	}
	c, err := New(append(make([]byte, 32), bytes.Repeat([]byte{1}, 32)...))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 15, 17, MaxUnit + 16} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("unit of %d bytes: no panic", n)
				}
			}()
			c.Encrypt(make([]byte, n), make([]byte, n), Tweak{})
		}()
	}
}

func BenchmarkEncrypt4096(b *testing.B) {
	c, err := New(append(make([]byte, 32), bytes.Repeat([]byte{1}, 32)...))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 4096)
	b.SetBytes(4096)
	for b.Loop() {
		c.Encrypt(buf, buf, Tweak{})
	}
}
