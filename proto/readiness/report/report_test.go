package report

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/veraison/go-cose"
)

var update = flag.Bool("update", false, "rewrite golden files")

var (
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	pub   = key.Public().(ed25519.PublicKey)
	nonce = bytes.Repeat([]byte{1}, 32)
)

func claims() Claims {
	return Claims{
		Nonce: nonce, ImageID: bytes.Repeat([]byte{2}, 16), BootID: bytes.Repeat([]byte{3}, 16), RootID: bytes.Repeat([]byte{4}, 16),
		BootKey: bytes.Repeat([]byte{5}, 32), Stages: []Stage{{Name: "kernel", Millis: 1200}, {Name: "ready", Millis: 2900}},
		RootMode: "crypt", ReadyAt: "handover", Profile: Profile,
	}
}

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	raw, err := Sign(key, claims())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Verify(pub, nonce, raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Stages) != 2 || c.Stages[1].Name != "ready" || c.Stages[1].Millis != 2900 {
		t.Errorf("stages %v", c.Stages)
	}
	// Ed25519 and deterministic CBOR: the bytes are a vector for others.
	const golden = "testdata/report.hex"
	got := hex.Dump(raw)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != got {
		t.Errorf("differs from %s: %v\n%s", golden, err, got)
	}
}

func TestVerifyRefusals(t *testing.T) {
	t.Parallel()
	raw, err := Sign(key, claims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(pub, bytes.Repeat([]byte{9}, 32), raw); !errors.Is(err, ErrNonce) {
		t.Errorf("other nonce: %v", err)
	}
	if _, err := Verify(pub, nil, raw); !errors.Is(err, ErrNonce) {
		t.Errorf("no nonce: %v", err)
	}
	other := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	if _, err := Verify(other, nonce, raw); !errors.Is(err, ErrSignature) {
		t.Errorf("other key: %v", err)
	}
	for n := range raw {
		if _, err := Verify(pub, nonce, raw[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
		bad := bytes.Clone(raw)
		bad[n] ^= 1
		if _, err := Verify(pub, nonce, bad); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Fatalf("byte %d flipped: %v", n, err)
		}
	}
	if _, err := Verify(pub, nonce, append(bytes.Clone(raw), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("byte added: %v", err)
	}
	if _, err := Verify(pub, nonce, make([]byte, MaxSize+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
}

// What is signed but not in the one form is refused too.
func TestSignedButNotCanonical(t *testing.T) {
	t.Parallel()
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, key)
	if err != nil {
		t.Fatal(err)
	}
	good, err := encoding.Marshal(claims())
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{
		"no claims": {0xa0}, "not a map": {0x01}, "unknown claim": append([]byte{good[0] + 1}, append(bytes.Clone(good[1:]), 0x1b, 0, 0, 0, 1, 0, 0, 0, 0, 1)...),
		"trailing byte": append(bytes.Clone(good), 0), "indefinite map": append(append([]byte{0xbf}, good[1:]...), 0xff),
	} {
		m := cose.NewSign1Message()
		m.Headers.Protected.SetAlgorithm(cose.AlgorithmEdDSA)
		m.Payload = payload
		if err := m.Sign(nil, nil, signer); err != nil {
			t.Fatal(err)
		}
		raw, err := m.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(pub, nonce, raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignRefusesWrongSizes(t *testing.T) {
	t.Parallel()
	c := claims()
	c.Nonce = c.Nonce[:31]
	if _, err := Sign(key, c); !errors.Is(err, ErrMalformed) {
		t.Errorf("short nonce: %v", err)
	}
	c = claims()
	c.RootMode = "plain"
	if _, err := Sign(key, c); !errors.Is(err, ErrMalformed) {
		t.Errorf("root mode: %v", err)
	}
	c = claims()
	c.ReadyAt = ""
	if _, err := Sign(key, c); !errors.Is(err, ErrMalformed) {
		t.Errorf("ready at nothing: %v", err)
	}
	c = claims()
	c.Profile += "1"
	if _, err := Sign(key, c); !errors.Is(err, ErrProfile) {
		t.Errorf("other profile: %v", err)
	}
	c = claims()
	c.Stages = []Stage{{Name: strings.Repeat("x", MaxSize)}}
	if _, err := Sign(key, c); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	raw, err := Sign(key, claims())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0xd2, 0x84})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := Verify(pub, nonce, raw); err == nil {
			if again, _ := Sign(key, claims()); !bytes.Equal(again, raw) {
				t.Errorf("accepted %x", raw)
			}
		}
	})
}
