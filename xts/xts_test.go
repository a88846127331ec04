package xts

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// engines are all that this processor can use, by name.
func engines() map[string]func(key []byte) engine {
	m := map[string]func(key []byte) engine{"portable": newPortable}
	for _, k := range fast {
		if k.usable {
			m[k.name] = k.make
		}
	}
	return m
}

// testKey is a key that depends on the seed alone.
func testKey(seed byte) []byte {
	key := make([]byte, KeySize)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(key)
	return key
}

// TestEngines says which engines the other tests do not reach here.
func TestEngines(t *testing.T) {
	t.Parallel()
	for _, k := range fast {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			if !k.usable {
				t.Skipf("this processor lacks %s", k.needs)
			}
		})
	}
}

// New takes the first engine that the processor can use.
func TestChoice(t *testing.T) {
	t.Parallel()
	c, err := New(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	want := newPortable(testKey(1))
	for _, k := range fast {
		if k.usable {
			want = k.make(testKey(1))
			break
		}
	}
	plain, got, wanted := make([]byte, 4096), make([]byte, 4096), make([]byte, 4096)
	c.Encrypt(got, plain, Tweak{7})
	want.encrypt(wanted, plain, Tweak{7})
	if !bytes.Equal(got, wanted) {
		t.Errorf("New's cipher differs from %T", want)
	}
	if _, isPortable := c.engine.(*portable); isPortable != (len(engines()) == 1) {
		t.Errorf("New took %T, there are %d engines", c.engine, len(engines()))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{nil, make([]byte, 32), make([]byte, 63), make([]byte, 65), make([]byte, 128)} {
		if _, err := New(key); !errors.Is(err, ErrKey) {
			t.Errorf("New, key of %d bytes: %v", len(key), err)
		}
		if _, err := NewDecrypter(key); !errors.Is(err, ErrKey) {
			t.Errorf("NewDecrypter, key of %d bytes: %v", len(key), err)
		}
	}
	c, err := New(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, lengths := range [][2]int{{1, 1}, {15, 15}, {17, 17}, {MaxUnit + 16, MaxUnit + 16}, {16, 32}, {0, 16}} {
		dst, src := make([]byte, lengths[0]), make([]byte, lengths[1])
		mustPanic(t, "Encrypt, wrong length", func() { c.Encrypt(dst, src, Tweak{}) })
		mustPanic(t, "Decrypt, wrong length", func() { c.Decrypt(dst, src, Tweak{}) })
	}
	b := make([]byte, 64)
	for _, at := range []int{1, 16, 31} {
		mustPanic(t, "Encrypt, overlap", func() { c.Encrypt(b[at:], b[:32], Tweak{}) })
		mustPanic(t, "Decrypt, overlap", func() { c.Decrypt(b[:32], b[at:at+32], Tweak{}) })
	}
	c.Encrypt(b[32:], b[:32], Tweak{})
	c.Encrypt(nil, nil, Tweak{})
	c.Decrypt(nil, nil, Tweak{})
}

// Equal halves: New refuses to encrypt with them, NewDecrypter reads what others
// encrypted.
func TestEqualHalves(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	copy(key[KeySize/2:], key)
	if _, err := New(key); !errors.Is(err, ErrKey) {
		t.Errorf("New: %v", err)
	}
	d, err := NewDecrypter(key)
	if err != nil {
		t.Fatal(err)
	}
	plain, b := bytes.Repeat([]byte{9}, 512), make([]byte, 512)
	newPortable(key).encrypt(b, plain, Tweak{3})
	d.Decrypt(b, b, Tweak{3})
	if !bytes.Equal(b, plain) {
		t.Error("does not decrypt")
	}
}

// The cipher keeps no reference to the caller's key, which its owner wipes.
func TestKeyIsCopied(t *testing.T) {
	t.Parallel()
	for name, newEngine := range engines() {
		key := testKey(1)
		e := newEngine(key)
		clear(key)
		got, want := make([]byte, 64), make([]byte, 64)
		e.encrypt(got, got, Tweak{})
		newPortable(testKey(1)).encrypt(want, want, Tweak{})
		if !bytes.Equal(got, want) {
			t.Errorf("%s: uses the caller's memory", name)
		}
	}
}

func TestWipe(t *testing.T) {
	t.Parallel()
	c, err := New(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	c.Wipe()
	c.Wipe() // an owner may do it on two paths
	b := make([]byte, 16)
	mustPanic(t, "Encrypt after Wipe", func() { c.Encrypt(b, b, Tweak{}) })
	mustPanic(t, "Decrypt after Wipe", func() { c.Decrypt(b, b, Tweak{}) })
	for name, newEngine := range engines() {
		e := newEngine(testKey(1))
		e.wipe()
		if !reflect.ValueOf(e).Elem().IsZero() {
			t.Errorf("%s: wipe leaves round keys", name)
		}
	}
}

// Concurrent use of one cipher is allowed; go test -race looks at it.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	c, err := New(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4096)
	c.Encrypt(want, want, Tweak{5})
	done := make(chan bool)
	for range 4 {
		go func() {
			same := true
			for range 50 {
				b := make([]byte, 4096)
				c.Encrypt(b, b, Tweak{5})
				same = same && bytes.Equal(b, want)
				c.Decrypt(b, b, Tweak{5})
				same = same && bytes.Equal(b, make([]byte, 4096))
			}
			done <- same
		}()
	}
	for range 4 {
		if !<-done {
			t.Error("results depend on each other")
		}
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}
