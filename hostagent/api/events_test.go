package api

import (
	"slices"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// A stream that goes on behind an event goes on with the caller's guests only,
// also when it names another's or was another's.
func TestResumeAsAnotherTenant(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	a, b := n.dial(alice), n.dial(bob)
	open := func(who Caller, r *hostagentv1.EventsRequest) hostagentv1.Hostagent_EventsClient {
		t.Helper()
		c := ttrpc.NewClient(rawDial(t, n.socket(who)))
		t.Cleanup(func() { c.Close() })
		s, err := hostagentv1.NewHostagentClient(c).Events(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	hear := func(s hostagentv1.Hostagent_EventsClient, last string) (names []string) {
		t.Helper()
		for {
			e, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if e.Guest == nil {
				continue
			}
			if names = append(names, e.Guest.Name); e.Guest.Name == last && e.Deleted {
				return slices.Compact(names)
			}
		}
	}
	first := open(alice, &hostagentv1.EventsRequest{})
	place, err := first.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { n.create(a, "alices"); return a.Delete(t.Context(), "alices") },
		func() error { n.create(b, "bobs"); return b.Delete(t.Context(), "bobs") },
		func() error { n.create(a, "last"); return a.Delete(t.Context(), "last") },
		func() error { n.create(b, "end"); return b.Delete(t.Context(), "end") },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	behind := func(name string) *hostagentv1.EventsRequest {
		return &hostagentv1.EventsRequest{Name: name, Epoch: place.Epoch, After: place.Sequence}
	}
	for _, c := range []struct {
		who  Caller
		name string
		last string
		want []string
	}{
		{alice, "", "last", []string{"alices", "last"}},
		{bob, "", "end", []string{"bobs", "end"}},
		{admin, "", "end", []string{"alices", "bobs", "last", "end"}},
		{bob, "end", "end", []string{"end"}}, // one that is gone
	} {
		if got := hear(open(c.who, behind(c.name)), c.last); !slices.Equal(got, c.want) {
			t.Errorf("uid %d, %q: %v, wants %v", c.who.UID, c.name, got, c.want)
		}
	}
	// Bob names alice's guest and hears nothing, neither of then nor of now.
	n.create(a, "web")
	s := open(bob, behind("web"))
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		if e, err := s.Recv(); err == nil {
			heard <- e.Guest.Name
		}
	}()
	if err := a.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	hear(first, "web") // so it was told to those who may hear it
	select {
	case name := <-heard:
		t.Errorf("bob hears of %s", name)
	default:
	}
	if _, err := b.Events(t.Context(), "web"); code(err) != fault.NoGuest {
		t.Errorf("a new stream about no guest: %v", err)
	}
}
