package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/shim/ledger"
)

// deleteTime is what the delete command has of the 5 seconds that containerd
// gives it, its own start taken off. For a hostagent that is away it waits less:
// containerd 1.6 calls delete for one task after the other, before it serves.
const (
	deleteTime     = 3500 * time.Millisecond
	deletePatience = time.Second
)

// Delete does what is left to do of a task whose shim is gone, as containerd's
// call of the delete command wants it: it ends and deletes the guest and says how
// the task ended. Of a task that was deleted properly nothing is left; containerd
// calls then too. When hostagent is away the guest is left to collect, which is
// to call [Collect] in a process of its own.
func Delete(ctx context.Context, address string, l *ledger.Ledger, namespace, id string, log *slog.Logger, collect func()) (pid uint32, exit ledger.Exit, err error) {
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	host := &Host{Address: address, Patience: deletePatience}
	exit = ledger.Exit{Status: statusKilled, At: time.Now()}
	r, err := l.Read(ledger.GuestName(namespace, id))
	if errors.Is(err, ledger.ErrNone) {
		return 0, exit, nil
	} else if err != nil {
		return 0, exit, err
	}
	if err := leaveNetwork(ctx, r.Guest, r.NetNS); err != nil {
		log.Warn("leave pod's network", "guest", r.Guest, "error", err)
	}
	err = settle(ctx, host, l, r)
	if r.Exit != nil {
		exit = *r.Exit
	}
	if err != nil {
		log.Warn("delete guest: left to another process", "guest", r.Guest, "error", err)
		r.Exit, r.Abandoned = &exit, true
		if err := l.Write(r); err != nil {
			return r.Pid, exit, err
		}
		collect()
	}
	return r.Pid, exit, nil
}

// settle ends and deletes a record's guest, and then the record. How a guest that
// had ended by itself did goes into the record's exit, unless one was recorded.
func settle(ctx context.Context, host *Host, l *ledger.Ledger, r *ledger.Record) error {
	g, err := host.get(ctx, r.Guest)
	switch {
	case is(err, fault.NoGuest):
		return l.Remove(r.Guest)
	case err != nil:
		return err
	}
	if g.Pid != 0 {
		r.Pid = uint32(g.Pid)
	}
	if r.Exit == nil && (g.State == "stopped" || g.State == "failed") {
		r.Exit = &ledger.Exit{Status: Status(g), At: time.Now()}
	}
	if err := host.remove(ctx, r.Guest); err != nil {
		return err
	}
	return l.Remove(r.Guest)
}

// Pauses of Collect, and when it gives up: the next shim's start begins anew.
const (
	collectPause    = time.Second
	collectMaxPause = 30 * time.Second
	collectPatience = 24 * time.Hour
)

// Collect ends and deletes guests that no task has any more, and waits for a
// hostagent if it has to. One process does so at a time.
func Collect(ctx context.Context, host *Host, l *ledger.Ledger, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, collectPatience)
	defer cancel()
	for pause := collectPause; ; pause = min(2*pause, collectMaxPause) {
		unlock, err := l.Lock()
		if errors.Is(err, ledger.ErrLocked) {
			return nil // it looks once more when it has unlocked
		} else if err != nil {
			return err
		}
		err = collectAll(ctx, host, l, log)
		unlock()
		// Debts that came while it was locked are nobody else's.
		debts, _ := l.Debts()
		if len(debts) == 0 {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("collect guests: %d are left: %w", len(debts), context.Cause(ctx))
		}
	}
}

func collectAll(ctx context.Context, host *Host, l *ledger.Ledger, log *slog.Logger) error {
	debts, err := l.Debts()
	for _, r := range debts {
		if err := settle(ctx, host, l, r); err != nil {
			log.Warn("collect guest", "guest", r.Guest, "error", err)
		}
	}
	return err
}
