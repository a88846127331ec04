package guest

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
)

// startsAtOnce bounds how many guests are on their way to the ultravisor's
// decision at once when a node boots.
const startsAtOnce = 8

// BootID is this boot of the node, as the kernel names it.
func BootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// due tells whether a guest is to start because the node was booted. A record
// that was written since shows that its turn has come already, or that somebody
// decided otherwise.
func (f *Fleet) due(rec *store.Guest) bool {
	inTurn := State(rec.State) == Waiting && rec.RestartAt.IsZero()
	return !move.Fenced(rec) && (inTurn || rec.Autostart && rec.BootID != f.Boot)
}

// queue makes a guest wait for its turn.
func (g *Guest) queue() error {
	return g.move(Waiting, func(rec *store.Guest) {
		rec.Process, rec.CID, rec.Failure, rec.Restarts, rec.RestartAt = nil, 0, nil, nil, time.Time{}
	})
}

// autostart starts the guests that are due, in order. Those of a higher order
// begin when all of a lower one are ready or have failed.
func (f *Fleet) autostart(ctx context.Context, guests []*Guest) {
	slices.SortFunc(guests, func(a, b *Guest) int {
		x, y := a.record(), b.record()
		return cmp.Or(cmp.Compare(x.Order, y.Order), strings.Compare(x.Name, y.Name))
	})
	for len(guests) > 0 && ctx.Err() == nil {
		order := guests[0].record().Order
		n := slices.IndexFunc(guests, func(g *Guest) bool { return g.record().Order != order })
		if n < 0 {
			n = len(guests)
		}
		f.startAll(ctx, guests[:n])
		guests = guests[n:]
	}
}

// startAll starts guests and waits until they are ready or have failed, within
// the time that one may take at most.
func (f *Fleet) startAll(ctx context.Context, guests []*Guest) {
	starting := func() (n int) {
		for _, g := range guests {
			if State(g.record().State) == Starting {
				n++
			}
		}
		return n
	}
	for _, g := range guests {
		f.until(ctx, func() bool { return starting() < startsAtOnce })
		if err := g.startWaiting(ctx); err != nil && !errors.Is(err, errNotWaiting) && ctx.Err() == nil {
			f.Log.Error("start guest at boot", "guest", g.record().Name, "error", err)
			if err := g.end(fault.As(err), false); err != nil {
				f.Log.Error("start guest at boot", "guest", g.record().Name, "error", err)
			}
		}
	}
	bounded, cancel := context.WithTimeout(ctx, launchTimeout+f.ReadyTimeout)
	defer cancel()
	f.until(bounded, func() bool {
		return !slices.ContainsFunc(guests, func(g *Guest) bool {
			s := State(g.record().State)
			return s == Starting || s == Running
		})
	})
}

// until waits for something to become true by a change of some guest.
func (f *Fleet) until(ctx context.Context, is func() bool) {
	for {
		changed := f.Hub.Changed()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
