package seimage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/secexec/secexec/secret"
)

// knownHost is a host key that never changes.
func knownHost(t testing.TB, b byte) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdh.P521().NewPrivateKey(append([]byte{0, 1}, bytes.Repeat([]byte{b}, 64)...))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P521(), key.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func seededSpec(t testing.TB) Spec {
	return Spec{
		Kernel: source(testKernel()), Initrd: source([]byte("initrd")), Cmdline: []byte("quiet"),
		Hosts: []*ecdsa.PublicKey{knownHost(t, 1), knownHost(t, 2)}, Seed: filled(MinSeedSize, 7),
	}
}

func seal(t testing.TB, s Spec) []byte {
	t.Helper()
	var out buffer
	if _, err := Create(t.Context(), &out, s); err != nil {
		t.Fatal(err)
	}
	return out.b
}

// The derivation of docs/formats/se-image.md: it never changes, so these don't.
func TestSeedVectors(t *testing.T) {
	t.Parallel()
	s := &seeded{filled(64, 5)}
	for label, want := range map[string]string{
		"header key":        "276eb65b43ea0b485bf87381",
		"image key":         "220aaa4e253036d2e0c6abf8",
		"communication key": "2b2873982aadc0340c1010f2",
		"header IV":         "0106ba0ce7092b79e438a015",
		"tweak 40":          "4e61b2b4791db5f0f78feac0",
	} {
		if got := fmt.Sprintf("%x", []byte(s.bytes(label, 12))); got != want {
			t.Errorf("%s: %s, wants %s", label, got, want)
		}
	}
	h := &Header{PLD: [64]byte{1}, ALD: [64]byte{2}, TLD: [64]byte{3}}
	key, err := customerKey(filled(32, 9), h)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%x", []byte(key.scalar)), "0139a62fd7e527b23ae20839571352a54788d2d475e8f597ca04e9b32c41153acb1dd7ec1cb3f49d8efd9c3bf3a47ac3595223d9313c43d76311a71f6bab5a9faeda"; got != want {
		t.Errorf("customer key %s, wants %s", got, want)
	}
}

// An image from a seed is the same bit for bit, on every machine. The vector
// changes with the boot loader, which is one of the inputs.
func TestSeededImageIsReproducible(t *testing.T) {
	t.Parallel()
	first := seal(t, seededSpec(t))
	if again := seal(t, seededSpec(t)); !bytes.Equal(first, again) {
		t.Error("two images of one seed differ")
	}
	if got, want := fmt.Sprintf("%x", sha256.Sum256(first)), "37e864614391d44994a6802ac6bf8c6e8c4aad4b28dedb2e84078da9c526e6f5"; got != want {
		t.Errorf("image has SHA-256 %s, wants %s", got, want)
	}
}

// Inputs that differ in anything share no key, IV, tweak or customer key.
func TestSeedKeepsInputsApart(t *testing.T) {
	t.Parallel()
	flags, psw := DefaultFlags|PCKMOHMAC, uint64(0x16000)
	key := secret.Bytes(bytes.Repeat([]byte("0123456789abcdef"), 2))
	other := testKernel()
	other[0x11500] ^= 1
	seen := map[string]string{}
	for name, change := range map[string]func(*Spec){
		"as it is":        func(*Spec) {},
		"seed":            func(s *Spec) { s.Seed = filled(MinSeedSize, 8) },
		"longer seed":     func(s *Spec) { s.Seed = filled(MinSeedSize+1, 7) },
		"kernel":          func(s *Spec) { s.Kernel = source(other) },
		"initrd":          func(s *Spec) { s.Initrd = source([]byte("initre")) },
		"no initrd":       func(s *Spec) { s.Initrd = Source{} },
		"longer initrd":   func(s *Spec) { s.Initrd = source([]byte("initrd\x00")) },
		"command line":    func(s *Spec) { s.Cmdline = []byte("quiet\n") },
		"no command line": func(s *Spec) { s.Cmdline = nil },
		"one host":        func(s *Spec) { s.Hosts = s.Hosts[:1] },
		"host order":      func(s *Spec) { s.Hosts = []*ecdsa.PublicKey{s.Hosts[1], s.Hosts[0]} },
		"plain flags":     func(s *Spec) { s.PCF = &flags },
		"secret flags":    func(s *Spec) { s.SCF = CCKUpdate },
		"start":           func(s *Spec) { s.PSWAddr = &psw },
		"header key":      func(s *Spec) { s.HeaderKey = key },
		"cck":             func(s *Spec) { s.CommKey = key },
		"image key":       func(s *Spec) { s.ImageKey = append(key.Clone(), filled(32, 1)...) },
	} {
		s := seededSpec(t)
		change(&s)
		raw := seal(t, s)
		img, err := Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		for what, b := range map[string][]byte{
			"IV": img.Header.IV[:], "customer key": img.Header.CustomerKey[:],
			"kernel page": raw[img.IPIB.Components[0].Addr:][:PageSize],
			"tweak":       fmt.Appendf(nil, "%x", img.IPIB.Components[0].TweakPrefix),
		} {
			id := what + " " + string(b)
			if before, twice := seen[id]; twice {
				t.Errorf("%q and %q share their %s", name, before, what)
			}
			seen[id] = name
		}
	}
}

// changing gives other bytes each time it is read from its start.
type changing struct {
	*bytes.Reader
	b []byte
}

func (c *changing) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		c.b[len(c.b)-1] ^= 1
		c.Reader = bytes.NewReader(c.b)
	}
	return c.Reader.Seek(offset, whence)
}

func TestSeedRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*Spec)
		want  error
	}{
		"short seed":    {func(s *Spec) { s.Seed = s.Seed[:MinSeedSize-1] }, ErrSeed},
		"empty seed":    {func(s *Spec) { s.Seed = secret.Bytes{} }, ErrSeed},
		"kernel a pipe": {func(s *Spec) { s.Kernel.R = io.MultiReader(s.Kernel.R) }, ErrSeed},
		"initrd a pipe": {func(s *Spec) { s.Initrd = Source{io.MultiReader(s.Initrd.R), Unsized} }, ErrSeed},
		"initrd short":  {func(s *Spec) { s.Initrd.Size++ }, ErrSource},
		"initrd changes": {func(s *Spec) {
			b := bytes.Repeat([]byte("x"), 5000)
			s.Initrd = Source{&changing{bytes.NewReader(b), slices.Clone(b)}, int64(len(b))}
		}, ErrSource},
	} {
		s := seededSpec(t)
		c.spoil(&s)
		if _, err := Create(t.Context(), &buffer{}, s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
