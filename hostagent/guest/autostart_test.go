package guest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/store"
)

// The order in which guests are started when the node boots: those of a lower
// order first, and the others when these are ready or have failed. A hostagent
// that is only started again starts none.
func TestAutostart(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	st := kept(t, stored("g", Stopped, 0)) // not to be started
	put := func(name string, order uint32, state State) {
		t.Helper()
		rec := stored(name, state, 0)
		rec.Autostart, rec.Order, rec.BootID, rec.Image = true, order, "earlier", "boot.seimg"
		keep(t, st, rec)
	}
	put("b2", 2, Ready) // ran when the node went down
	put("a2", 2, Stopped)
	put("c1", 1, Failed)
	put("x1", 1, Created)
	put("d0", 0, Starting)
	hub := NewHub()
	f, g := inRoom(t, r, st, func(o *Options) { o.Boot, o.Hub = "this", hub })
	for _, name := range []string{"a2", "b2", "c1", "d0", "x1"} {
		guest, err := f.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		becomes(t, guest, Ready)
	}
	if State(g.record().State) != Stopped {
		t.Errorf("a guest without autostart is %s", g.record().State)
	}
	events, err := hub.Resume(hub.Epoch(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for len(story) < 10 {
		e, err := events.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		word := fmt.Sprintf("%s %s", e.Guest.Name, e.Guest.State)
		if s := State(e.Guest.State); (s == Starting || s == Ready) && !slices.Contains(story, word) {
			story = append(story, word)
		}
	}
	at := func(word string) int { return slices.Index(story, word) }
	for _, pair := range []string{
		"d0 ready<c1 starting", "c1 ready<a2 starting", "x1 ready<a2 starting", "c1 starting<x1 starting", "a2 starting<b2 starting",
	} {
		before, after, _ := strings.Cut(pair, "<")
		if at(before) >= at(after) {
			t.Errorf("%s does not come before %s: %v", before, after, story)
		}
	}
	c1, err := f.Get("c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c1.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Close()
	starts := r.count()
	f, _ = inRoom(t, r, st, func(o *Options) { o.Boot = "this" })
	c1, err = f.Get("c1")
	if err != nil || State(c1.record().State) != Stopped || r.count() != starts {
		t.Errorf("hostagent started again: %+v %v, %d starts", c1.record(), err, r.count()-starts)
	}
}

// A hostagent that is killed while it starts guests at boot leaves the rest to
// the next one; a guest whose turn was called off stays stopped.
func TestAutostartGoesOn(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	rec := stored("g", Waiting, 0)
	rec.Autostart, rec.BootID = true, "this" // its turn had not come
	st := kept(t, rec)
	_, g := inRoom(t, r, st, func(o *Options) { o.Boot = "this" })
	becomes(t, g, Ready)
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, g = inRoom(t, r, st, func(o *Options) { o.Boot = "this" })
	if State(g.record().State) != Stopped {
		t.Errorf("%+v", g.record())
	}
}

// A guest that can't start at boot does not hold up the others, and one that was
// called off in its turn is not started.
func TestAutostartFailures(t *testing.T) {
	t.Parallel()
	r := newRoom(t, then("guest-panic"), bootsUp)
	first := stored("g", Stopped, 0)
	first.Autostart, first.Restart = true, &store.Restart{Policy: RestartOnFailure, Limit: 5, WindowS: 600}
	st := kept(t, first)
	second := stored("h", Stopped, 0)
	second.Autostart, second.Order, second.Image = true, 1, "boot.seimg"
	keep(t, st, second)
	f, g := inRoom(t, r, st, func(o *Options) { o.Boot = "this" })
	h, err := f.Get("h")
	if err != nil {
		t.Fatal(err)
	}
	becomes(t, h, Ready)
	becomes(t, g, Ready) // by its policy, later
}
