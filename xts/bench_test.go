package xts

import (
	"crypto/aes"
	"fmt"
	"maps"
	"slices"
	"testing"

	oracle "golang.org/x/crypto/xts"
)

// The figures to compare with: openssl speed -evp aes-256-xts -bytes 4096
// (add -decrypt), on the same machine at the same time.

func BenchmarkEncrypt512(b *testing.B) { benchmark(b, 512, (*Cipher).Encrypt) }
func BenchmarkDecrypt512(b *testing.B) { benchmark(b, 512, decrypt) }
func BenchmarkEncrypt4K(b *testing.B)  { benchmark(b, 4096, (*Cipher).Encrypt) }
func BenchmarkDecrypt4K(b *testing.B)  { benchmark(b, 4096, decrypt) }
func BenchmarkEncrypt16K(b *testing.B) { benchmark(b, 16384, (*Cipher).Encrypt) }

func decrypt(c *Cipher, dst, src []byte, tweak Tweak) { c.Decrypt(dst, src, tweak) }

func benchmark(b *testing.B, n int, f func(c *Cipher, dst, src []byte, tweak Tweak)) {
	c, err := New(testKey(1))
	if err != nil {
		b.Fatal(err)
	}
	buf, sector := make([]byte, n), uint64(0)
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		f(c, buf, buf, SectorTweak(sector))
		sector += 8
	}
}

// BenchmarkEngines compares all engines, and x/crypto, in 4 KiB units.
func BenchmarkEngines(b *testing.B) {
	all := engines()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name](testKey(1))
		for direction, f := range map[string]func(dst, src []byte, tweak Tweak){"encrypt": e.encrypt, "decrypt": e.decrypt} {
			b.Run(fmt.Sprintf("%s/%s", name, direction), func(b *testing.B) {
				buf := make([]byte, 4096)
				b.SetBytes(int64(len(buf)))
				for b.Loop() {
					f(buf, buf, Tweak{1})
				}
			})
		}
	}
	b.Run("x-crypto/encrypt", func(b *testing.B) {
		c, err := oracle.NewCipher(aes.NewCipher, testKey(1))
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 4096)
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			c.Encrypt(buf, buf, 1)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := New(testKey(1)); err != nil {
			b.Fatal(err)
		}
	}
}
