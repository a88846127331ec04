package guest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// All transitions, allowed and denied, against the picture in state.go.
func TestTransitions(t *testing.T) {
	t.Parallel()
	allowed := map[[2]State]bool{
		{Created, Starting}: true,
		{Starting, Running}: true, {Starting, Stopped}: true, {Starting, Failed}: true,
		{Running, Ready}: true, {Running, Stopping}: true, {Running, Stopped}: true, {Running, Failed}: true,
		{Ready, Starting}: true, {Ready, Stopping}: true, {Ready, Stopped}: true, {Ready, Failed}: true,
		{Stopping, Stopped}: true, {Stopping, Failed}: true,
		{Stopped, Starting}: true, {Failed, Starting}: true,
		{Waiting, Starting}: true, {Waiting, Stopped}: true, {Waiting, Failed}: true,
		// At the node's boot, and but for created and stopped by the restart policy.
		{Created, Waiting}: true, {Starting, Waiting}: true, {Running, Waiting}: true, {Ready, Waiting}: true,
		{Stopping, Waiting}: true, {Stopped, Waiting}: true, {Failed, Waiting}: true, {Waiting, Waiting}: true,
	}
	for _, from := range States {
		for _, to := range States {
			err := check(from, to)
			if allowed[[2]State{from, to}] != (err == nil) || err != nil && !errors.Is(err, ErrTransition) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
		if err := check(deleted, from); err == nil {
			t.Errorf("a deleted guest can become %s", from)
		}
	}
}

// Every call in every state: done, or refused without a change.
func TestCallsByState(t *testing.T) {
	t.Parallel()
	allowed := map[string][]State{
		"start":  {Created, Stopped, Failed, Waiting},
		"stop":   {Starting, Running, Ready, Stopping, Waiting},
		"kill":   {Starting, Running, Ready, Stopping, Waiting},
		"delete": {Created, Stopped, Failed, Waiting},
		"ask":    {Running, Ready, Stopping}, // the guest answers once it is ready
	}
	for _, state := range States {
		for call, states := range allowed {
			t.Run(call+" "+string(state), func(t *testing.T) {
				t.Parallel()
				guest, boot := bootsUp, make(chan struct{})
				if state == Running || state == Stopping {
					guest = says("STAGE kernel 1")
				}
				r := newRoom(t, guest)
				rec := stored("g", state, 0)
				rec.BootID, rec.RestartAt = BootID(), time.Now().Add(time.Minute)
				if state.Live() && state != Starting {
					rec = adoptable(t, r, state)
				}
				if state == Stopping {
					rec.Stages = []store.Stage{{Name: "ready"}} // so that the guest is asked, and is deaf
				}
				if state == Starting {
					rec.State = string(Stopped)
				}
				f, g := inRoom(t, r, kept(t, rec), func(o *Options) {
					o.Platform = host{boot: func() error {
						if state == Starting {
							<-boot
						}
						return nil
					}}
				})
				if state == Starting {
					if err := g.Start(t.Context(), ""); err != nil {
						t.Fatal(err)
					}
				}
				time.AfterFunc(200*time.Millisecond, func() { close(boot) })
				if got := State(g.record().State); got != state {
					t.Fatalf("guest is %s", got)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var err error
				switch call {
				case "start":
					err = g.Start(ctx, "")
				case "stop":
					err = g.Stop(ctx, time.Millisecond)
				case "kill":
					err = g.Kill(ctx)
				case "delete":
					err = f.Delete(ctx, "g")
				case "ask":
					if ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond); state == Ready {
						ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
					}
					defer cancel()
					if _, err = g.Challenge(ctx, [32]byte{}); err != nil && fault.As(err).Code == fault.NoAnswer && state != Ready {
						err = nil // it was asked
					}
					if state == Starting && err == nil {
						err = fault.New(fault.WrongState, "not connected yet")
					}
				}
				if slices.Contains(states, state) {
					if err != nil {
						t.Error(err)
					}
				} else if err == nil || fault.As(err).Code != fault.WrongState {
					t.Errorf("%v", err)
				} else if got := State(g.record().State); got != state && state != Starting {
					t.Errorf("refused, but the guest is %s", got)
				}
			})
		}
	}
}
