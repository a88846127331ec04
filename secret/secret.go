// Package secret holds bytes that must not be printed: volume keys, image
// keys, header protection keys, identity seeds.
//
// A value has one owner, who calls [Bytes.Wipe] once at the end of its life.
// Whoever needs the bytes for longer makes a copy and owns that copy. Go's
// collector may have moved nothing (it does not move heap objects), so wiping
// the slice wipes the memory; strings can't be wiped, so secrets never become
// strings.
package secret

import (
	"crypto/rand"
	"fmt"
	"log/slog"
)

// Redacted is what a secret prints as, in every format.
const Redacted = "[redacted]"

// Bytes is a secret. It prints as [Redacted] through fmt, encoding/json,
// encoding.TextMarshaler and log/slog.
type Bytes []byte

// Random returns n bytes from the system's generator.
func Random(n int) Bytes {
	b := make(Bytes, n)
	_, _ = rand.Read(b) // documented to never fail
	return b
}

// Clone returns a copy with an owner of its own.
func (b Bytes) Clone() Bytes { return append(Bytes(nil), b...) }

// Wipe overwrites the secret with zeros. Only its owner calls it.
func (b Bytes) Wipe() { clear(b) }

// Format implements fmt.Formatter for every verb and flag.
func (b Bytes) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(Redacted)) }

// MarshalText implements encoding.TextMarshaler, and with it encoding/json.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// LogValue implements slog.LogValuer.
func (b Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }
