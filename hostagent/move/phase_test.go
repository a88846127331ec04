package move

import (
	"fmt"
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

const uuid = "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c"

// in is a guest in a phase of the move of key.
func in(phase, key string) *store.Guest {
	rec := &store.Guest{Name: "g", UUID: uuid}
	switch phase {
	case "":
		return rec
	case Leaving:
		rec.Move = &store.Move{Token: key, Phase: phase, Peer: "b"}
	case Given, Gone:
		rec.Move = &store.Move{Token: key, Phase: phase, Peer: "b", Copy: ID("copy")}
	default:
		rec.Move = &store.Move{Token: ID(key), Phase: phase, Peer: "a", Copy: ID("copy")}
	}
	return rec
}

var phases = []string{"", Leaving, Given, Gone, Arriving, Arrived, Taken}

// Every change in every phase: where it leads, or that it is denied.
func TestTransitions(t *testing.T) {
	t.Parallel()
	key := NewKey()
	id := ID(key)
	changes := map[string]func(*store.Guest) error{
		"start":      Start,
		"delete":     Delete,
		"leave":      func(rec *store.Guest) error { return Leave(rec, "b") },
		"leave to c": func(rec *store.Guest) error { return Leave(rec, "c") },
		"arrive": func(rec *store.Guest) error {
			there := *rec
			return Arrive(rec, &there, id, "a", "")
		},
		"arrive by another move": func(rec *store.Guest) error {
			there := *rec
			return Arrive(rec, &there, ID("other"), "a", "")
		},
		"replace": func(rec *store.Guest) error {
			there := *rec
			return Arrive(rec, &there, ID("other"), "a", id)
		},
		"seal":                   func(rec *store.Guest) error { return Seal(rec, id) },
		"seal another move":      func(rec *store.Guest) error { return Seal(rec, ID("other")) },
		"give":                   func(rec *store.Guest) error { return Give(rec, id, ID("copy")) },
		"give another move":      func(rec *store.Guest) error { return Give(rec, ID("other"), ID("copy")) },
		"give to another copy":   func(rec *store.Guest) error { return Give(rec, id, ID("other")) },
		"take":                   func(rec *store.Guest) error { return Take(rec, key, ID("copy")) },
		"take with another key":  func(rec *store.Guest) error { return Take(rec, NewKey(), ID("copy")) },
		"take with the id":       func(rec *store.Guest) error { return Take(rec, id, ID("copy")) },
		"take another copy":      func(rec *store.Guest) error { return Take(rec, key, ID("other")) },
		"bury":                   func(rec *store.Guest) error { return Bury(rec, id) },
		"bury another move":      func(rec *store.Guest) error { return Bury(rec, ID("other")) },
		"cancel":                 cancel(id, false),
		"cancel another move":    cancel(ID("other"), true),
		"cancel, the other lost": cancel(id, true),
	}
	const removed = "removed"
	// What is not here is denied.
	want := map[string]map[string]string{
		"start":                  {"": "", Leaving: "", Taken: Taken},
		"delete":                 {"": "", Leaving: Leaving, Gone: Gone, Arriving: Arriving, Taken: Taken},
		"leave":                  {"": Leaving, Leaving: Leaving, Taken: Leaving},
		"leave to c":             {"": Leaving, Taken: Leaving},
		"arrive":                 {Gone: Arriving, Arriving: Arriving, Arrived: Arrived},
		"arrive by another move": {Gone: Arriving},
		"replace":                {Gone: Arriving, Arriving: Arriving, Arrived: Arriving},
		"seal":                   {Arriving: Arrived, Arrived: Arrived},
		"give":                   {Leaving: Given, Given: Given, Gone: Gone},
		"give to another copy":   {Leaving: Given},
		"take":                   {Arrived: Taken, Taken: Taken},
		"bury":                   {Given: Gone, Gone: Gone},
		"cancel":                 {Leaving: "", Arriving: removed},
		"cancel, the other lost": {Leaving: "", Given: "", Gone: "", Arriving: removed, Arrived: removed},
	}
	for name, change := range changes {
		for _, phase := range phases {
			t.Run(fmt.Sprintf("%s in %q", name, phase), func(t *testing.T) {
				t.Parallel()
				rec := in(phase, key)
				before := rec.Move
				err := change(rec)
				to, allowed := want[name][phase]
				is := PhaseOf(rec)
				if err == errRemove {
					err, is = nil, removed
				}
				if allowed != (err == nil) || allowed && is != to {
					t.Fatalf("leads to %q, %v; wants %q, allowed %v", is, err, to, allowed)
				}
				if !allowed && rec.Move != before {
					t.Error("a denied change changed the record")
				}
				if code := fault.As(err).Code; err != nil && code != fault.Moving && code != fault.Moved && code != fault.NameTaken {
					t.Errorf("%v", err)
				}
				if before != nil && *before != *in(phase, key).Move {
					t.Error("a record that others may hold was changed in place")
				}
			})
		}
	}
}

var errRemove = fmt.Errorf("remove it")

func cancel(id string, lost bool) func(*store.Guest) error {
	return func(rec *store.Guest) error {
		if remove, err := Cancel(rec, id, lost); remove {
			return errRemove
		} else {
			return err
		}
	}
}

// The source's key does not show before Give, and a second move has another.
func TestKeys(t *testing.T) {
	t.Parallel()
	rec := in("", "")
	if err := Leave(rec, "b"); err != nil {
		t.Fatal(err)
	}
	id, key := IDOf(rec), rec.Move.Token
	if id == key || !IsID(id) || !IsID(key) || ID(key) != id {
		t.Errorf("key %s, id %s", key, id)
	}
	if err := Start(rec); err != nil || rec.Move != nil {
		t.Fatalf("start: %v, %+v", err, rec.Move)
	}
	if err := Give(rec, id, ID("copy")); err == nil {
		t.Error("a guest that was started meanwhile was given away")
	}
	if err := Leave(rec, "b"); err != nil || rec.Move.Token == key {
		t.Errorf("second move: %v, the same key %v", err, rec.Move.Token == key)
	}
	for _, s := range []string{"", id[1:], id + "00", "A" + id[1:], "../" + id[3:]} {
		if IsID(s) {
			t.Errorf("%q is an id", s)
		}
	}
}

// A guest that another one's record replaces is of the same UUID.
func TestArriveOverStranger(t *testing.T) {
	t.Parallel()
	for _, phase := range phases {
		there := in(phase, NewKey())
		there.UUID = "00000000-8c86-4a2f-9d3c-3d2f1e0a9b8c"
		if err := Arrive(in("", ""), there, ID("x"), "a", IDOf(there)); fault.As(err).Code != fault.NameTaken {
			t.Errorf("over a stranger that is %q: %v", phase, err)
		}
	}
}
