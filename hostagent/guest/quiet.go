package guest

import (
	"context"
	"runtime/debug"
	"time"
)

// GCPercent is hostagent's garbage collector's: it lets the heap grow by so much
// between two collections. hostagent holds a few MiB and makes little garbage: a
// hundred starts take 17 collections, and Go's ordinary 100 would keep 2 MiB more.
const GCPercent = 30

// quietAfter is how long nothing must happen before memory is given back.
const quietAfter = 5 * time.Second

// tidy gives memory back to the node when the guests have come to rest: what
// starts needed, and the stacks that grew with it. Each collection halves a
// stack, so there are two. While nothing happens it does nothing.
func (f *Fleet) tidy(ctx context.Context) {
	for ctx.Err() == nil {
		changed := f.Hub.Changed()
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			return
		case <-time.After(quietAfter):
		}
		debug.FreeOSMemory()
		debug.FreeOSMemory()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
