package seimage

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"

	"github.com/secexec/secexec/secret"
)

// Slots says how a header's key slots change.
type Slots struct {
	Add     []*ecdsa.PublicKey // hosts to add; those that are there already keep their place
	Remove  [][32]byte         // host key hashes to remove; each must be there
	Replace bool               // remove all that Add does not name
}

// Errors of changing key slots.
var (
	ErrAbsent = errors.New("no key slot to remove")
	ErrKept   = errors.New("key slots can't be kept without their host key documents")
	ErrRoom   = errors.New("no room for so many key slots")
)

// Retarget returns a header for other hosts: the same secrets under the same
// header key, with other key slots and a fresh IV.
//
// A slot is kept as it is when the header's customer key is the one that the
// header key gives, as in every image of Create's. Another builder's customer
// key is lost, so there Add must name the hosts to keep too (ErrKept lists
// those that it lacks); from then on the header has a customer key of ours.
//
// A removed host's firmware refuses the new header. Whoever kept the old one
// still has it: what it protects is not made secret again.
func (h *Header) Retarget(headerKey secret.Bytes, change Slots) (*Header, error) {
	area, err := h.openArea(headerKey)
	if err != nil {
		return nil, err
	}
	defer area.Wipe()
	next := &Header{PCF: h.PCF, NEP: h.NEP, PLD: h.PLD, ALD: h.ALD, TLD: h.TLD}
	copy(next.IV[:], secret.Random(ivSize))
	customer, err := customerKey(headerKey, h)
	if err != nil {
		return nil, err
	}
	defer customer.scalar.Wipe()
	var hosts []*ecdh.PublicKey
	if len(change.Add) > 0 {
		if hosts, err = hostPoints(change.Add); err != nil {
			return nil, err
		}
	}
	var added []KeySlot
	if next.CustomerKey, added, err = customer.slots(hosts, headerKey); err != nil {
		return nil, err
	}
	if next.Slots, err = h.change(change, added, next.CustomerKey == h.CustomerKey); err != nil {
		return nil, err
	}
	return next, next.sealArea(headerKey, area)
}

// change puts the new key slots together, added ones among them; ours says that
// the present ones fit the customer key.
func (h *Header) change(change Slots, added []KeySlot, ours bool) ([]KeySlot, error) {
	find := func(slots []KeySlot, hash [32]byte) int {
		return slices.IndexFunc(slots, func(s KeySlot) bool { return s.HostHash == hash })
	}
	for _, hash := range change.Remove {
		switch {
		case change.Replace:
			return nil, fmt.Errorf("%w: to replace all and to remove one exclude each other", ErrAbsent)
		case find(h.Slots, hash) < 0:
			return nil, fmt.Errorf("%w: the image has none for host key %x", ErrAbsent, hash)
		case find(added, hash) >= 0:
			return nil, fmt.Errorf("%w: host key %x is to be added and removed", ErrAbsent, hash)
		}
	}
	var out []KeySlot
	var lost [][32]byte
	for _, slot := range h.Slots {
		if at := find(added, slot.HostHash); at >= 0 {
			out = append(out, added[at])
			added = slices.Delete(added, at, at+1)
			continue
		}
		if change.Replace || slices.Contains(change.Remove, slot.HostHash) {
			continue
		}
		if !ours {
			lost = append(lost, slot.HostHash)
		}
		out = append(out, slot)
	}
	if len(lost) > 0 {
		return nil, fmt.Errorf("%w: another tool made the image, so give the documents of those to keep too, for host keys %x", ErrKept, lost)
	}
	out = append(out, added...)
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%w: it would leave no key slot", ErrHosts)
	case len(out) > MaxSlots:
		return nil, fmt.Errorf("%w: %d, an SE header holds at most %d", ErrRoom, len(out), MaxSlots)
	}
	return out, nil
}
