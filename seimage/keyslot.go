package seimage

import (
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
)

// KeySlot holds the header protection key for one host.
type KeySlot struct {
	HostHash [32]byte // SHA-256 over the coordinates of the host's public key
	Wrapped  [HeaderKeySize]byte
	Tag      [tagSize]byte
}

// Errors of opening a key slot, each a refusal of firmware's.
var (
	ErrNoSlotForHost = errors.New("no key slot for this host")
	ErrCustomerKey   = errors.New("customer public key is not a point on P-521")
	ErrSlotTag       = errors.New("key slot is not authentic")
)

// wrapSlot makes the key slot of one host. The customer key is fresh for each
// header, so that the zero IV never repeats under one key-encrypting key.
func wrapSlot(customer *customer, host *ecdh.PublicKey, headerKey secret.Bytes) (KeySlot, error) {
	hash, err := hostkey.Hash(host)
	if err != nil {
		return KeySlot{}, fmt.Errorf("wrap key slot: %w", err)
	}
	if len(headerKey) != HeaderKeySize {
		return KeySlot{}, fmt.Errorf("wrap key slot: %w: header key has %d bytes, wants %d", ErrKeySize, len(headerKey), HeaderKeySize)
	}
	shared, err := customer.shared(host)
	if err != nil {
		return KeySlot{}, fmt.Errorf("wrap key slot: %w", err)
	}
	kek := keyEncryptingKey(shared)
	defer kek.Wipe()
	gcm, err := newGCM(kek)
	if err != nil {
		return KeySlot{}, fmt.Errorf("wrap key slot: %w", err)
	}
	sealed := gcm.Seal(nil, make([]byte, ivSize), headerKey, nil)
	slot := KeySlot{HostHash: hash}
	copy(slot.Wrapped[:], sealed)
	copy(slot.Tag[:], sealed[HeaderKeySize:])
	return slot, nil
}

// UnwrapSlot finds the host's key slot in a header and returns the header
// protection key, as firmware does. The caller owns the key.
func UnwrapSlot(host *ecdh.PrivateKey, h *Header) (secret.Bytes, error) {
	hash, err := hostkey.Hash(host.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("open key slot: %w", err)
	}
	customer, err := hostkey.Point(h.CustomerKey)
	if err != nil {
		return nil, fmt.Errorf("open key slot: %w", ErrCustomerKey)
	}
	for _, slot := range h.Slots {
		if slot.HostHash != hash {
			continue
		}
		shared, err := host.ECDH(customer)
		if err != nil {
			return nil, fmt.Errorf("open key slot: %w", ErrCustomerKey)
		}
		kek := keyEncryptingKey(shared)
		defer kek.Wipe()
		gcm, err := newGCM(kek)
		if err != nil {
			return nil, fmt.Errorf("open key slot: %w", err)
		}
		key, err := gcm.Open(nil, make([]byte, ivSize), append(append([]byte(nil), slot.Wrapped[:]...), slot.Tag[:]...), nil)
		if err != nil {
			return nil, ErrSlotTag
		}
		return key, nil
	}
	return nil, ErrNoSlotForHost
}

// keyEncryptingKey is SHA-256 over the shared secret's X coordinate (66 bytes)
// and the counter 1 (ANSI X9.63 KDF, one block). It wipes the shared secret; the
// caller owns the key.
func keyEncryptingKey(shared secret.Bytes) secret.Bytes {
	defer shared.Wipe()
	input := append(append(make(secret.Bytes, 0, len(shared)+4), shared...), 0, 0, 0, 1)
	defer input.Wipe()
	kek := sha256.Sum256(input)
	defer clear(kek[:])
	return append(secret.Bytes(nil), kek[:]...)
}
