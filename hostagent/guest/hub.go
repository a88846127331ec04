package guest

import (
	"errors"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/store"
)

// Event is a guest as it is after a change.
type Event struct {
	Sequence uint64
	Time     time.Time
	Guest    store.Guest
	Deleted  bool
}

// ErrSlow says that a subscriber did not keep up and was cut off.
var ErrSlow = errors.New("events were not read fast enough: subscribe again and list")

// maxBacklog is how many events a subscriber may be behind.
const maxBacklog = 256

// Hub hands events to subscribers. A slow one loses its subscription; it never
// holds up a guest or another subscriber.
type Hub struct {
	mu       sync.Mutex
	sequence uint64
	subs     map[chan Event]struct{}
}

// NewHub starts with no subscriber.
func NewHub() *Hub { return &Hub{subs: make(map[chan Event]struct{})} }

// Subscribe returns a channel of events from now on and a function that ends
// the subscription. The channel is closed when the subscriber is cut off.
func (h *Hub) Subscribe() (events <-chan Event, cancel func()) {
	ch := make(chan Event, maxBacklog)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, ch)
	}
}

func (h *Hub) publish(g store.Guest, deleted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	e := Event{h.sequence, time.Now(), g, deleted}
	for ch := range h.subs {
		select {
		case ch <- e:
		default:
			delete(h.subs, ch)
			close(ch)
		}
	}
}
