package guest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// A reader that does not read is refused in the end; another one misses nothing.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	h := NewHub()
	slow, good := h.Subscribe(), h.Subscribe()
	for i := range uint64(keptEvents + 10) {
		h.publish(&store.Guest{Name: "g"}, false)
		if e, err := good.Next(t.Context()); err != nil || e.Sequence != i+1 {
			t.Fatalf("event %d has number %d: %v", i+1, e.Sequence, err)
		}
	}
	if _, err := slow.Next(t.Context()); err == nil || fault.As(err).Code != fault.EventsGone {
		t.Errorf("slow reader: %v", err)
	}
	if n := h.next - h.first; n > keptEvents {
		t.Errorf("%d events are kept", n)
	}
}

// A reader goes on where it was, or is told that it can't.
func TestResume(t *testing.T) {
	t.Parallel()
	h := NewHub()
	for range 3 * keptEvents {
		h.publish(&store.Guest{Name: "g"}, false)
	}
	for _, c := range []struct {
		epoch string
		after uint64
		want  uint64 // next event, 0: refused
	}{
		{h.Epoch(), h.first - 1, h.first}, {h.Epoch(), h.next - 2, h.next - 1},
		{h.Epoch(), h.first - 2, 0}, {h.Epoch(), 0, 0}, {h.Epoch(), h.next, 0}, {h.Epoch(), 1<<64 - 1, 0}, {"another", h.next - 2, 0},
	} {
		r, err := h.Resume(c.epoch, c.after)
		if c.want == 0 {
			if err == nil || fault.As(err).Code != fault.EventsGone {
				t.Errorf("%s behind %d: %v", c.epoch, c.after, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s behind %d: %v", c.epoch, c.after, err)
		} else if e, err := r.Next(t.Context()); err != nil || e.Sequence != c.want {
			t.Errorf("behind %d comes %d: %v", c.after, e.Sequence, err)
		}
	}
	r, err := h.Resume(h.Epoch(), h.next-1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no event: %v", err)
	}
}

// Failures with long words fill the memory that events may take, no more.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	h := NewHub()
	for range keptEvents {
		h.publish(&store.Guest{Name: "g", Failure: &store.Failure{Message: strings.Repeat("x", 2<<10)}}, false)
	}
	n, sum := h.next-h.first, 0
	for i := h.first; i < h.next; i++ {
		sum += size(h.events[i%uint64(len(h.events))].Guest)
	}
	if sum != h.bytes || sum > keptBytes || n < keptBytes/4096 {
		t.Errorf("%d events of %d bytes, counted as %d", n, sum, h.bytes)
	}
}
