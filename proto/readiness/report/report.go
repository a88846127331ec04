// Package report is the signed readiness report: a COSE_Sign1 message (RFC
// 9052) with EdDSA over Ed25519 and deterministic CBOR claims in the manner of
// an EAT (RFC 9711).
//
// An SE image runs only where firmware that holds a designated host key
// decrypted it, so a key that exists only inside the image proves who speaks.
// The nonce proves that it speaks now. docs/readiness.md says what a report
// does not prove.
package report

import (
	"bytes"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// MaxSize bounds a report in bytes, so that its line in the readiness protocol
// fits in base64.
const MaxSize = 2048

// Errors of Verify, each a different thing to do.
var (
	ErrMalformed = errors.New("malformed readiness report")
	ErrSignature = errors.New("readiness report is not signed by this image's identity key")
	ErrNonce     = errors.New("readiness report answers another nonce")
	ErrProfile   = errors.New("readiness report of a profile that this version does not know")
)

// Claims are what a report says. Keys: 10 is EAT's nonce; negative ones are
// private.
type Claims struct {
	Nonce   []byte  `cbor:"10,keyasint"`     // 32 bytes, the asker's
	ImageID []byte  `cbor:"-70001,keyasint"` // 16 bytes, made at build
	BootID  []byte  `cbor:"-70002,keyasint"` // 16 bytes, the kernel's boot_id
	RootID  []byte  `cbor:"-70003,keyasint"` // 16 bytes, the root volume's LUKS2 UUID
	BootKey []byte  `cbor:"-70004,keyasint"` // 32 bytes, Ed25519 key made at this boot, for the owner's channel
	Stages  []Stage `cbor:"-70005,keyasint"` // stages passed, in order

	RootMode string `cbor:"-70006,keyasint"` // what the root's mapping detects: one of RootModes
	ReadyAt  string `cbor:"-70007,keyasint"` // what stage ready means: one of ReadyAts
	Profile  string `cbor:"265,keyasint"`    // EAT's profile: Profile
}

// Profile names this set of claims. A later one gets another name and another
// message to ask for it: who asks by CHALLENGE gets this one.
const Profile = "tag:secexec,2026:readiness-1"

// RootModes are the names of sealed.Mode's values, ReadyAts of sealed.Ready's.
var (
	RootModes = []string{"crypt", "crypt-integrity", "verity"}
	ReadyAts  = []string{"handover", "notify"}
)

// Passed tells whether a stage is among those passed.
func (c *Claims) Passed(stage string) bool {
	return slices.ContainsFunc(c.Stages, func(s Stage) bool { return s.Name == stage })
}

// Stage is a stage passed and when, by the guest's clock since kernel start.
type Stage struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Millis uint64
}

// maxStages bounds the stages of a report.
const maxStages = 16

var (
	encoding = must(cbor.CoreDetEncOptions().EncMode())
	decoding = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxArrayElements:  maxStages,
		MaxMapPairs:       16,
		MaxNestedLevels:   4,
	}.DecMode())
)

// must is for options that are fixed at build time.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Sign makes a report.
func Sign(key ed25519.PrivateKey, c Claims) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	payload, err := encoding.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode claims: %w", err)
	}
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, key)
	if err != nil {
		return nil, fmt.Errorf("sign report: %w", err)
	}
	m := cose.NewSign1Message()
	m.Headers.Protected.SetAlgorithm(cose.AlgorithmEdDSA)
	m.Payload = payload
	if err := m.Sign(nil, nil, signer); err != nil {
		return nil, fmt.Errorf("sign report: %w", err)
	}
	raw, err := m.MarshalCBOR()
	if err == nil && len(raw) > MaxSize {
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(raw), MaxSize)
	}
	return raw, err
}

// Verify checks a report's signature, form and nonce, and returns what it says.
// Whether the image is the one meant is the caller's to compare: ImageID.
func Verify(identity ed25519.PublicKey, nonce, raw []byte) (*Claims, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(raw), MaxSize)
	}
	m := cose.NewSign1Message()
	if err := m.UnmarshalCBOR(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	alg, err := m.Headers.Protected.Algorithm()
	if err != nil || alg != cose.AlgorithmEdDSA || len(m.Headers.Protected) != 1 || len(m.Headers.Unprotected) != 0 {
		return nil, fmt.Errorf("%w: its header is not EdDSA alone", ErrMalformed)
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmEdDSA, identity)
	if err != nil {
		return nil, fmt.Errorf("verify report: %w", err)
	}
	if err := m.Verify(nil, verifier); err != nil {
		return nil, ErrSignature
	}
	if again, err := m.MarshalCBOR(); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%w: not in canonical form", ErrMalformed)
	}
	c := new(Claims)
	if err := decoding.Unmarshal(m.Payload, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if again, err := encoding.Marshal(c); err != nil || !bytes.Equal(again, m.Payload) {
		return nil, fmt.Errorf("%w: claims are not in canonical form", ErrMalformed)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(c.Nonce, nonce) != 1 {
		return nil, ErrNonce
	}
	return c, nil
}

func (c *Claims) check() error {
	if c.Profile != Profile {
		return fmt.Errorf("%w: %.60q", ErrProfile, c.Profile)
	}
	if !slices.Contains(RootModes, c.RootMode) || !slices.Contains(ReadyAts, c.ReadyAt) {
		return fmt.Errorf("%w: root mode %.20q, ready at %.20q", ErrMalformed, c.RootMode, c.ReadyAt)
	}
	if len(c.Nonce) != 32 || len(c.ImageID) != 16 || len(c.BootID) != 16 || len(c.RootID) != 16 || len(c.BootKey) != ed25519.PublicKeySize || len(c.Stages) > maxStages {
		return fmt.Errorf("%w: a claim has the wrong size", ErrMalformed)
	}
	return nil
}
