// Package witness follows all guests: it logs each change of their states as an
// event and tells of the stages of their launches. It lives on what the fleet
// publishes and is in nobody's way.
package witness

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/store"
)

// Witness is one subscriber of a hub.
type Witness struct {
	Log     *slog.Logger
	Stage   func(name string, since time.Duration) // a guest reached a stage
	Changed func()                                 // a guest's state changed

	hub    *guest.Hub
	cursor *guest.Cursor
	turn   chan struct{}   // held (sent) while an event is seen
	seen   map[string]seen // by name
}

// seen is what was last known of a guest.
type seen struct {
	uuid, state string
	started     time.Time
	stages      int
	restarted   time.Time // newest restart by the policy
}

// New subscribes: nothing from then on is missed. It is called before the fleet
// is made, which settles guests at once.
func New(hub *guest.Hub, log *slog.Logger) *Witness {
	return &Witness{
		Log: log, Stage: func(string, time.Duration) {}, Changed: func() {},
		hub: hub, cursor: hub.Subscribe(), turn: make(chan struct{}, 1), seen: make(map[string]seen),
	}
}

// Run follows until the context is done. list is the fleet's guests now, for
// when the witness itself could not keep up.
func (w *Witness) Run(ctx context.Context, list func() []store.Guest) {
	for {
		e, err := w.cursor.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		w.turn <- struct{}{}
		if err == nil {
			w.see(e.Guest, e.Deleted)
		} else { // too far behind
			w.cursor = w.hub.Subscribe()
			w.catchUp(list())
		}
		<-w.turn
	}
}

// Ping returns when Run does not hang in an event, or with the context's end.
func (w *Witness) Ping(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
		<-w.turn
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the follower of guests: %w", context.Cause(ctx))
	}
}

// catchUp sees the guests as they are, and that others are gone.
func (w *Witness) catchUp(all []store.Guest) {
	there := make(map[string]bool, len(all))
	for i := range all {
		there[all[i].Name] = true
		w.see(&all[i], false)
	}
	for name, s := range w.seen {
		if !there[name] {
			w.see(&store.Guest{Name: name, UUID: s.uuid}, true)
		}
	}
}

// see compares a guest with what was known of it.
func (w *Witness) see(g *store.Guest, deleted bool) {
	before, known := w.seen[g.Name]
	log := w.Log.With("guest", g.Name, "uuid", g.UUID)
	if deleted {
		delete(w.seen, g.Name)
		log.Info("guest removed", journal.Deleted)
		w.Changed()
		return
	}
	if known && before.uuid != g.UUID {
		before, known = seen{}, false
	}
	now := seen{uuid: g.UUID, state: g.State, started: g.Started, stages: len(g.Stages)}
	if n := len(g.Restarts); n > 0 {
		now.restarted = g.Restarts[n-1]
	}
	w.seen[g.Name] = now
	if !known && g.State == string(guest.Running) {
		return // taken over: a guest that starts is seen as starting before
	}
	if known && now.restarted.After(before.restarted) {
		log.Warn("guest is to be started again by its restart policy", journal.Restarted, "restarts", len(g.Restarts), "at", g.RestartAt)
	}
	passed := before.stages
	if !g.Started.Equal(before.started) {
		passed = 0
	}
	for _, s := range g.Stages[min(passed, len(g.Stages)):] {
		if known {
			w.Stage(s.Name, time.Duration(s.Millis)*time.Millisecond)
		}
	}
	if before.state == g.State && g.Started.Equal(before.started) {
		return
	}
	var was slog.Attr // none: it ran before this hostagent did
	if before.state != "" {
		was = slog.String("was", before.state)
	}
	if f := g.Failure; f != nil && (g.State == string(guest.Failed) || g.State == string(guest.Waiting)) {
		log.Warn("guest failed", journal.Failed, "state", g.State, was, "code", f.Code, "reason", f.Message)
	} else {
		log.Info("guest is "+g.State, journal.State, "state", g.State, was)
	}
	w.Changed()
}
