package guest

import (
	"testing"

	"github.com/secexec/secexec/hostagent/store"
)

// A subscriber that does not read is cut off; another one misses nothing.
func TestSlowSubscriber(t *testing.T) {
	t.Parallel()
	h := NewHub()
	slow, cancelSlow := h.Subscribe()
	good, cancelGood := h.Subscribe()
	defer cancelSlow()
	for i := range uint64(maxBacklog + 10) {
		h.publish(store.Guest{Name: "g"}, false)
		if e := <-good; e.Sequence != i+1 {
			t.Fatalf("event %d has number %d", i+1, e.Sequence)
		}
	}
	n := 0
	for range slow {
		n++
	}
	if n != maxBacklog {
		t.Errorf("slow subscriber got %d events before it was cut off", n)
	}
	cancelGood()
	h.publish(store.Guest{}, true)
	if len(good) != 0 {
		t.Error("an ended subscription gets events")
	}
}
