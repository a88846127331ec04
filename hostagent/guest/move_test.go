package guest

import (
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
)

// A guest that is another node's starts neither by a call nor when the node
// boots; one that is still here does both, which ends its move.
func TestStartInEachPhase(t *testing.T) {
	t.Parallel()
	key := move.NewKey()
	for phase, want := range map[string]fault.Code{
		"": "", move.Leaving: "", move.Taken: "", move.Given: fault.Moved, move.Gone: fault.Moved, move.Arriving: fault.Moving, move.Arrived: fault.Moving,
	} {
		t.Run("phase "+phase, func(t *testing.T) {
			t.Parallel()
			rec := stored("g", Stopped, 0)
			if phase != "" {
				rec.Move = &store.Move{Token: key, Phase: phase, Peer: "b", Copy: move.NewKey()}
			}
			f := fleet(t, &launcher{}, rec)
			booted := *rec
			booted.Autostart, booted.BootID = true, "an earlier boot"
			if got := f.due(&booted); got != (want == "") {
				t.Errorf("due when the node boots: %v", got)
			}
			g, err := f.Get("g")
			if err != nil {
				t.Fatal(err)
			}
			err = g.Start(t.Context(), "")
			if want == "" && err != nil || want != "" && fault.As(err).Code != want {
				t.Fatalf("start: %v, wants %q", err, want)
			}
			if l := g.current(); l != nil {
				<-l.done
			}
			is := g.Snapshot()
			if phase == move.Leaving && is.Move != nil {
				t.Errorf("a start left the move as it was: %+v", is.Move)
			}
			if want != "" && (is.Move == nil || State(is.State) != Stopped) {
				t.Errorf("a refused start left %+v", is)
			}
		})
	}
}

// A guest that runs, or is about to, goes nowhere.
func TestLeavesOnlyWhenStill(t *testing.T) {
	t.Parallel()
	for _, state := range []State{Created, Stopped, Failed} {
		f := fleet(t, &launcher{}, stored("g", state, 0))
		g, err := f.Get("g")
		if err != nil {
			t.Fatal(err)
		}
		id, err := g.Leave(t.Context(), "b")
		if err != nil || !move.IsID(id) {
			t.Errorf("%s: %q, %v", state, id, err)
		}
		if again, err := g.Leave(t.Context(), "b"); err != nil || again != id {
			t.Errorf("%s: again %q, %v", state, again, err)
		}
		if _, err := g.Leave(t.Context(), "c"); fault.As(err).Code != fault.Moving {
			t.Errorf("%s: to another node: %v", state, err)
		}
	}
	r := newRoom(t, bootsUp)
	_, g := inRoom(t, r, kept(t, stored("g", Created, 0)), nil)
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	if _, err := g.Leave(t.Context(), "b"); fault.As(err).Code != fault.WrongState {
		t.Errorf("ready: %v", err)
	}
}
