package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"
	"unsafe"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// Event is a guest as it is after a change. Its Guest is shared: readers don't
// change it.
type Event struct {
	Sequence uint64
	Time     time.Time
	Guest    *store.Guest
	Deleted  bool
}

// Bounds of the events that are kept for readers who are behind.
const (
	keptEvents = 4096
	keptBytes  = 1 << 20
)

// Hub keeps the latest events and lets any number of readers follow them, each at
// its own pace. A reader costs nothing but its place in the sequence: a slow one
// holds up nobody, and finds itself refused once its place is gone.
type Hub struct {
	epoch string

	mu      sync.Mutex
	events  []Event // a ring: the event of sequence n is at n modulo its length
	first   uint64  // sequence of the oldest one kept
	next    uint64  // sequence of the next one
	bytes   int     // estimated, of those kept
	changed chan struct{}
}

// NewHub starts an epoch.
func NewHub() *Hub {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return &Hub{epoch: hex.EncodeToString(b[:]), first: 1, next: 1, changed: make(chan struct{})}
}

// Epoch names this start of hostagent: sequences count within it.
func (h *Hub) Epoch() string { return h.epoch }

// Cursor is a reader's place in the sequence. One goroutine uses it.
type Cursor struct {
	hub   *Hub
	after uint64
}

// Subscribe starts behind the latest event.
func (h *Hub) Subscribe() *Cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &Cursor{h, h.next - 1}
}

// Resume starts behind an event that the reader has. It fails with
// [fault.EventsGone] if what followed is not there any more.
func (h *Hub) Resume(epoch string, after uint64) (*Cursor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case epoch != h.epoch:
		return nil, fault.New(fault.EventsGone, "events of epoch %.64q ended with an earlier hostagent", epoch)
	case after >= h.next:
		return nil, fault.New(fault.EventsGone, "there is no event %d yet", after)
	case after+1 < h.first:
		return nil, h.gone(after)
	}
	return &Cursor{h, after}, nil
}

func (h *Hub) gone(after uint64) error {
	return fault.New(fault.EventsGone, "of the events behind %d those up to %d are no longer kept", after, h.first-1)
}

// After is the sequence of the event that Next returned last.
func (c *Cursor) After() uint64 { return c.after }

// Next waits for the next event. It fails with [fault.EventsGone] for a reader
// that fell too far behind, and with the context.
func (c *Cursor) Next(ctx context.Context) (Event, error) {
	for {
		e, changed, err := c.hub.at(c.after + 1)
		if err != nil {
			return Event{}, err
		}
		if changed == nil {
			c.after = e.Sequence
			return e, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// at returns an event, or a channel that is closed when it may have come.
func (h *Hub) at(sequence uint64) (Event, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case sequence >= h.next:
		return Event{}, h.changed, nil
	case sequence < h.first:
		return Event{}, nil, h.gone(sequence - 1)
	}
	return h.events[sequence%uint64(len(h.events))], nil, nil
}

// Changed is closed at the next event.
func (h *Hub) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// publish takes a record that nobody changes any more.
func (h *Hub) publish(g *store.Guest, deleted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes += size(g)
	for h.next > h.first && (h.next-h.first == keptEvents || h.bytes > keptBytes) {
		old := &h.events[h.first%uint64(len(h.events))]
		h.bytes -= size(old.Guest)
		*old = Event{}
		h.first++
	}
	if h.next-h.first == uint64(len(h.events)) {
		h.grow()
	}
	h.events[h.next%uint64(len(h.events))] = Event{h.next, time.Now(), g, deleted}
	h.next++
	close(h.changed)
	h.changed = make(chan struct{})
}

// grow doubles the ring.
func (h *Hub) grow() {
	larger := make([]Event, max(64, 2*len(h.events)))
	for n := h.first; n < h.next; n++ {
		larger[n%uint64(len(larger))] = h.events[n%uint64(len(h.events))]
	}
	h.events = larger
}

// size estimates the bytes that a record holds by itself. Names and digests
// are shared by all records of a guest.
func size(g *store.Guest) int {
	n := int(unsafe.Sizeof(Event{}) + unsafe.Sizeof(*g))
	n += len(g.Stages)*int(unsafe.Sizeof(store.Stage{})) + len(g.Disks)*int(unsafe.Sizeof(store.Disk{})) + len(g.Networks)*int(unsafe.Sizeof(store.Network{})) + len(g.Restarts)*int(unsafe.Sizeof(time.Time{}))
	if g.Failure != nil {
		n += len(g.Failure.Message)
	}
	return n
}
