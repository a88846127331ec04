// Package move is the offline migration of a guest from one node (the source)
// to another (the target): who may start it in which phase ([Leave], [Give],
// [Take] and their like change a record and do nothing else), how files are
// compared and digested in chunks, and the [Relay] that drives two hostagents.
//
// Two facts keep a guest from starting twice. The source has a key and tells its
// hash alone, the move's id; the target's copy can't start without the key. The
// source gives the key out after it has stored that it never starts the guest
// again, and for one copy only. docs/move.md argues it step by step.
package move

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// Phases of a move.
//
//	source:  (none) ──▶ leaving ──▶ given ──▶ gone
//	            ▲          │          │
//	            └──────────┘          │ key
//	           start, cancel          ▼
//	target:  (none) ──▶ arriving ──▶ arrived ──▶ taken
//	            ▲          │ ▲          │
//	            └──────────┴─┼──────────┘ cancel
//	                         └─ gone (the guest comes back)
const (
	Leaving  = "leaving"  // startable; a start ends the move
	Given    = "given"    // fenced for good
	Gone     = "gone"     // fenced, and known to have started a life elsewhere
	Arriving = "arriving" // files come in
	Arrived  = "arrived"  // files are all here, checked and durable
	Taken    = "taken"    // startable: the guest is here
)

// PhaseOf returns a guest's phase, "" when it is in no move.
func PhaseOf(rec *store.Guest) string {
	if rec.Move == nil {
		return ""
	}
	return rec.Move.Phase
}

// NewKey returns a new key of a move, or name of a copy: 32 random bytes in hex.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ID is a key's move.
func ID(key string) string {
	sum := sha256.Sum256([]byte("secexec move key\x00" + key))
	return hex.EncodeToString(sum[:])
}

// IsID tells whether s has the form of a key, id or copy.
func IsID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}

// IDOf returns the id of the move that a guest is in, "" when it is in none.
func IDOf(rec *store.Guest) string {
	switch PhaseOf(rec) {
	case "":
		return ""
	case Leaving, Given, Gone:
		return ID(rec.Move.Token)
	}
	return rec.Move.Token
}

// Fenced tells whether the guest can't start here: another node has it, or had
// it first.
func Fenced(rec *store.Guest) bool {
	switch PhaseOf(rec) {
	case Given, Gone, Arriving, Arrived:
		return true
	}
	return false
}

// Start allows or refuses a start. A leaving guest stays: the key is forgotten,
// and with it the move.
func Start(rec *store.Guest) error {
	switch PhaseOf(rec) {
	case Given, Gone:
		return fault.New(fault.Moved, "guest %s was given to %s", rec.Name, rec.Move.Peer)
	case Arriving, Arrived:
		return fault.New(fault.Moving, "guest %s has not been taken over from %s yet", rec.Name, rec.Move.Peer)
	case Leaving:
		rec.Move = nil
	}
	return nil
}

// Delete allows or refuses a removal: not of a copy that the other one may
// depend on.
func Delete(rec *store.Guest) error {
	switch PhaseOf(rec) {
	case Given:
		return fault.New(fault.Moving, "guest %s was given to %s, which has not taken it yet: what is here lets it", rec.Name, rec.Move.Peer)
	case Arrived:
		return fault.New(fault.Moving, "guest %s is here complete and %s may have given it away", rec.Name, rec.Move.Peer)
	}
	return nil
}

// Leave marks a guest as leaving to peer. Repeated, it changes nothing.
func Leave(rec *store.Guest, peer string) error {
	switch PhaseOf(rec) {
	case "", Taken:
		rec.Move = &store.Move{Token: NewKey(), Phase: Leaving, Peer: peer}
		return nil
	case Leaving:
		if rec.Move.Peer == peer {
			return nil
		}
		return fault.New(fault.Moving, "guest %s is being moved to %s", rec.Name, rec.Move.Peer)
	}
	return Start(rec)
}

// Arrive marks a record as that of a guest whose files come in. there is the
// record that is replaced, nil: none. A repeated call keeps the copy's name.
func Arrive(rec, there *store.Guest, id, peer, replaces string) error {
	m := &store.Move{Token: id, Phase: Arriving, Peer: peer, Copy: NewKey()}
	if there != nil {
		switch phase, old := PhaseOf(there), IDOf(there); {
		case there.UUID != rec.UUID || phase == "" || phase == Leaving || phase == Taken:
			return fault.New(fault.NameTaken, "there is a guest %s already", rec.Name)
		case phase == Given:
			return Delete(there)
		case phase == Gone:
		case old == id:
			m = there.Move
		case old != replaces:
			return fault.New(fault.Moving, "guest %s is arriving by another move", rec.Name)
		}
	}
	rec.Move = m
	return nil
}

// In wants a guest to be in a phase of a move.
func In(rec *store.Guest, id string, phases ...string) error {
	phase := PhaseOf(rec)
	for _, p := range phases {
		if p == phase && IDOf(rec) == id {
			return nil
		}
	}
	if phase == "" {
		return fault.New(fault.Moving, "guest %s is in no such move: it was cancelled, or the guest was started", rec.Name)
	}
	return fault.New(fault.Moving, "guest %s is %s in a move, not %s in this one", rec.Name, phase, phases[0])
}

// Seal marks an arriving guest as complete.
func Seal(rec *store.Guest, id string) error {
	if err := In(rec, id, Arriving, Arrived); err != nil {
		return err
	}
	rec.Move = change(rec.Move, Arrived)
	return nil
}

// Give fences a leaving guest for good, in favour of one copy. Repeated for the
// same copy it changes nothing; for another it is refused.
func Give(rec *store.Guest, id, copy string) error {
	if err := In(rec, id, Leaving, Given, Gone); err != nil {
		return err
	}
	if rec.Move.Phase == Leaving {
		m := change(rec.Move, Given)
		m.Copy = copy
		rec.Move = m
	}
	if rec.Move.Copy != copy {
		return fault.New(fault.Moved, "guest %s was given to another copy on %s", rec.Name, rec.Move.Peer)
	}
	return nil
}

// Take lets a complete copy start, if the key is for it. Repeated, it changes
// nothing.
func Take(rec *store.Guest, key, copy string) error {
	if err := In(rec, ID(key), Arrived, Taken); err != nil {
		return err
	}
	if rec.Move.Copy != copy {
		return fault.New(fault.Moved, "guest %s was given to another copy than this one", rec.Name)
	}
	rec.Move = change(rec.Move, Taken)
	return nil
}

// Bury marks a given guest as one whose copy has been taken.
func Bury(rec *store.Guest, id string) error {
	if err := In(rec, id, Given, Gone); err != nil {
		return err
	}
	rec.Move = change(rec.Move, Gone)
	return nil
}

// Cancel ends a move. remove says that the copy here is to be removed. lost says
// that the other node's copy will never start, which nobody here can check.
func Cancel(rec *store.Guest, id string, lost bool) (remove bool, err error) {
	switch phase := PhaseOf(rec); {
	case phase == "" || phase == Taken:
		return false, fault.New(fault.Moving, "guest %s is in no move", rec.Name)
	case IDOf(rec) != id:
		return false, In(rec, id, Leaving)
	case phase == Arriving || phase == Arrived && lost:
		return true, nil
	case phase == Leaving || phase != Arrived && lost:
		rec.Move = nil
		return false, nil
	case phase == Gone:
		return false, Start(rec)
	}
	return false, Delete(rec)
}

func change(m *store.Move, phase string) *store.Move {
	c := *m
	c.Phase = phase
	return &c
}
