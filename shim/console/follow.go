// Package console brings a guest's console to where containerd wants a task's
// output.
package console

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Pauses between two looks at the console: short after it said something, longer
// while it says nothing.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
	chunk    = 64 << 10
)

// lastPatience is how long hostagent may be away when a guest has ended and its
// last words are wanted.
const lastPatience = 30 * time.Second

// Source reads from a guest's console log, as hostagent's client does.
type Source interface {
	Console(ctx context.Context, guest string, offset int64, limit int) (*hostagentv1.ConsoleResponse, error)
}

// Follow copies a guest's console from its beginning until the guest has ended
// and all is copied, a write fails or the context ends. hostagent may be away
// for as long as it likes while the guest runs. What a guest says faster than
// the reader takes it stays in hostagent's log, whose older part hostagent
// drops at 8 MiB.
func Follow(ctx context.Context, source Source, guest string, ended <-chan struct{}, w io.Writer) error {
	var offset int64
	var last time.Time // when hostagent may be away no longer
	pause := minPause
	for over := false; ; {
		answer, err := source.Console(ctx, guest, offset, chunk)
		switch {
		case err == nil && len(answer.Data) > 0:
			if _, err := w.Write(answer.Data); err != nil {
				return fmt.Errorf("write console of guest %s: %w", guest, err)
			}
			offset, pause = answer.Next, minPause
			if answer.Next < answer.Size {
				continue
			}
		case err == nil && over:
			return nil
		case err == nil:
			offset = answer.Next // a log that was cut begins anew
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case over && time.Now().After(last):
			return fmt.Errorf("read console of guest %s: %w", guest, err)
		}
		if over && err == nil {
			continue
		}
		var end <-chan struct{}
		if !over {
			end = ended
		}
		select {
		case <-end:
			last, pause = time.Now().Add(lastPatience), minPause
			over = true
		case <-time.After(pause):
			pause = min(2*pause, maxPause)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
