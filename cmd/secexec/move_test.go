package main

import (
	"testing"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// A move's phases as people see them: in ps behind the state, in events when
// they change, and never one that passes for the guest's being here.
func TestMoveWords(t *testing.T) {
	t.Parallel()
	last := &hostagentv1.Guest{Name: "g", State: "stopped"}
	for _, c := range []struct{ phase, state, event string }{
		{"leaving", "stopped, leaving", "is leaving to b; a start here ends the move"},
		{"given", "stopped, given", "given to b, which has yet to take it"},
		{"gone", "stopped, gone", "moved to b"},
		{"arriving", "stopped, arriving", "arriving from b, can't start here yet"},
		{"arrived", "stopped, arrived", "arrived from b, can't start here yet"},
		{"taken", "stopped", "came from b"},
		{"", "stopped", "stays: the move has ended"},
	} {
		g := &hostagentv1.Guest{Name: "g", State: "stopped"}
		if c.phase != "" {
			g.Move = &hostagentv1.MovePlace{Phase: c.phase, Peer: "b"}
		}
		if got := stateWord(g); got != c.state {
			t.Errorf("%q shows as %q, wants %q", c.phase, got, c.state)
		}
		if got := eventWords(last, &hostagentv1.Event{Guest: g}); got != c.event {
			t.Errorf("%q is told as %q, wants %q", c.phase, got, c.event)
		}
		if got := eventWords(g, &hostagentv1.Event{Guest: g}); got != "stopped" {
			t.Errorf("%q is told again as %q", c.phase, got)
		}
		last = g
	}
}
