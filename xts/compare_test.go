package xts

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	oracle "golang.org/x/crypto/xts"
)

// compare encrypts and decrypts plain with each engine, in place and from one
// buffer to another, both that many bytes off an aligned address, and compares
// with x/crypto. Nothing but dst may change.
func compare(key, plain []byte, sector uint64, srcOff, dstOff int) error {
	theirs, err := oracle.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	want := make([]byte, len(plain))
	theirs.Encrypt(want, plain, sector)
	for name, newEngine := range engines() {
		e := newEngine(key)
		for _, way := range []struct {
			name    string
			f       func(dst, src []byte, tweak Tweak)
			in, out []byte
		}{
			{"encrypt", e.encrypt, plain, want},
			{"decrypt", e.decrypt, want, plain},
		} {
			src, dst := place(way.in, srcOff), place(make([]byte, len(way.in)), dstOff)
			way.f(inside(dst, dstOff), inside(src, srcOff), SectorTweak(sector))
			if !bytes.Equal(dst, place(way.out, dstOff)) {
				return fmt.Errorf("%s %s, %d bytes, offsets %d and %d: differs from x/crypto, or writes beside dst", name, way.name, len(plain), srcOff, dstOff)
			}
			if !bytes.Equal(src, place(way.in, srcOff)) {
				return fmt.Errorf("%s %s, %d bytes: changes src", name, way.name, len(plain))
			}
			way.f(inside(src, srcOff), inside(src, srcOff), SectorTweak(sector))
			if !bytes.Equal(src, place(way.out, srcOff)) {
				return fmt.Errorf("%s %s, %d bytes: in place it differs from x/crypto", name, way.name, len(plain))
			}
		}
	}
	return nil
}

// margin is what place puts before and after.
const margin = 64

// place copies b into a larger buffer, off bytes after a margin.
func place(b []byte, off int) []byte {
	buf := bytes.Repeat([]byte{0xa5}, len(b)+off+2*margin)
	copy(buf[margin+off:], b)
	return buf
}

func inside(buf []byte, off int) []byte { return buf[margin+off : len(buf)-margin] }

// Lengths around each step of the loops in assembly, each with other offsets.
func TestAgainstXCrypto(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	plain := make([]byte, MaxUnit)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(plain)
	for n := BlockSize; n <= MaxUnit; n += BlockSize {
		if n > 1200 && n%1024 > 96 && n != MaxUnit-BlockSize {
			continue
		}
		sector := rng.Uint64() >> rng.UintN(64)
		if err := compare(testKey(byte(n/16)), plain[:n], sector, rng.IntN(17), rng.IntN(17)); err != nil {
			t.Error(err)
		}
	}
}

// x/crypto can't have all tweaks, the portable engine can: those of SE images
// are big-endian, with both halves in use. The carry out of each bit and of each
// byte happens with random ones.
func TestAgainstPortable(t *testing.T) {
	t.Parallel()
	rng := rand.NewChaCha8([32]byte{3})
	plain := make([]byte, MaxUnit)
	_, _ = rng.Read(plain)
	for i := range 100 {
		var tweak Tweak
		_, _ = rng.Read(tweak[:])
		if i%2 == 0 {
			binary.BigEndian.PutUint64(tweak[8:], uint64(i)<<12)
		}
		plain := plain[:BlockSize*(1+rng.Uint64()%(MaxUnit/BlockSize))]
		want, got := make([]byte, len(plain)), make([]byte, len(plain))
		newPortable(testKey(byte(i))).encrypt(want, plain, tweak)
		for name, newEngine := range engines() {
			e := newEngine(testKey(byte(i)))
			if e.encrypt(got, plain, tweak); !bytes.Equal(got, want) {
				t.Errorf("%s: encrypts %d bytes with tweak %x to something else", name, len(plain), tweak)
			}
			if e.decrypt(got, want, tweak); !bytes.Equal(got, plain) {
				t.Errorf("%s: decrypts %d bytes with tweak %x to something else", name, len(plain), tweak)
			}
		}
	}
}

func FuzzAgainstXCrypto(f *testing.F) {
	f.Add(testKey(1), []byte("sixteen bytes of"), uint64(0), uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, key, plain []byte, sector uint64, srcOff, dstOff uint8) {
		if len(key) != KeySize {
			if _, err := NewDecrypter(key); err == nil {
				t.Fatalf("takes a key of %d bytes", len(key))
			}
			return
		}
		plain = plain[:min(len(plain), MaxUnit)&^(BlockSize-1)]
		if len(plain) == 0 {
			return
		}
		if err := compare(key, plain, sector, int(srcOff), int(dstOff)); err != nil {
			t.Error(err)
		}
	})
}
