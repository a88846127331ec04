package guest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/readiness"
)

// launch takes the guest from state starting to its end.
func (l *life) launch(ctx context.Context) { l.follow(ctx, l.run(ctx)) }

// follow goes on in a goroutine of its own: the stack of what came before has
// grown deep, and would be kept as long as the guest runs.
func (l *life) follow(ctx context.Context, runs bool) {
	if !runs {
		l.end()
		return
	}
	l.g.fleet.lives.Go(func() {
		defer l.end()
		l.supervise(ctx)
	})
}

// run takes the guest from state starting to running, and tells whether it came
// there.
func (l *life) run(ctx context.Context) bool {
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bounded, stop := context.WithTimeout(starting, launchTimeout)
	defer stop()
	launched, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		l.watchOrders(cancel, launched)
	}()
	err := l.start(bounded)
	close(launched)
	<-watched // it may just be taking an order
	switch {
	case err == nil && !l.aborted.Load():
	case l.aborted.Load():
		l.killProcess()
		l.report(l.g.end(nil, true))
		return false
	case ctx.Err() != nil:
		l.killProcess()
		l.report(l.g.end(fault.New(fault.Interrupted, "hostagent ended while guest %s started", l.name()), false))
		return false
	default:
		f := fault.As(err)
		if f.Code == fault.Refused { // its boot loader says why, and stops
			l.waitExit(refusalPatience)
		}
		l.killProcess()
		l.report(l.g.end(f, l.aborted.Load()))
		return false
	}
	if err := l.g.move(Running, func(rec *store.Guest) { pass(rec, "unpacked", store.ByHost) }); err != nil {
		l.killProcess()
		l.report(l.g.end(fault.As(err), l.aborted.Load()))
		return false
	}
	return true
}

// watchOrders cancels the launch at the first order.
func (l *life) watchOrders(cancel context.CancelCauseFunc, launched <-chan struct{}) {
	select {
	case <-l.orders:
		cancel(errAborted)
	case <-launched:
	}
}

// start launches QEMU and takes the guest past the ultravisor.
func (l *life) start(ctx context.Context) error {
	f, rec := l.g.fleet, l.g.Snapshot()
	release, err := qemu.Version(ctx, f.QEMU)
	if err != nil {
		return fault.New(fault.QEMU, "start guest %s: %w", rec.Name, err)
	}
	if err := f.Platform.Check(ctx); err != nil {
		return fault.New(fault.Node, "start guest %s: %w", rec.Name, err)
	}
	if f.CheckQEMU != nil && f.Platform.Protected() {
		if err := f.CheckQEMU(ctx, f.QEMU); err != nil {
			return fault.New(fault.Node, "start guest %s: %w", rec.Name, err)
		}
	}
	if err := f.admitStart(&rec); err != nil {
		return err
	}
	cfg, err := l.config(&rec, release.Sandbox)
	if err != nil {
		return err
	}
	if l.proc, err = l.launchQEMU(ctx, &rec, cfg); err != nil {
		return fault.New(launchCode(err), "start guest %s: %w", rec.Name, err)
	}
	id := l.proc.Identity()
	if err := l.g.update(func(rec *store.Guest) error {
		rec.Process, rec.CID = &id, cfg.CID
		pass(rec, "starting", store.ByHost)
		return nil
	}); err != nil {
		return err
	}
	dialing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	booting, cancelBoot := context.WithCancelCause(ctx)
	defer cancelBoot(nil)
	go func() {
		select {
		case <-l.proc.Exited():
			cancel(errEnded)
			// After a refusal QEMU ends while the stand-in is still telling why.
			time.AfterFunc(refusalPatience, func() { cancelBoot(errEnded) })
		case <-ctx.Done():
		case <-dialing.Done():
		}
	}()
	if l.monitor, err = qemu.Dial(dialing, cfg.QMPSocket); err != nil {
		return l.startFault(&rec, err)
	}
	if err := f.Platform.Boot(booting, platform.BootSpec{Config: cfg, Monitor: l.monitor, Log: f.Log}); err != nil {
		return l.startFault(&rec, err)
	}
	return nil
}

// launchQEMU starts QEMU with all that it needs opened already.
func (l *life) launchQEMU(ctx context.Context, rec *store.Guest, cfg *qemu.Config) (launch.Process, error) {
	l.openVsock(cfg)
	files, err := qemu.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer qemu.Close(files) // with QEMU's own its sockets end
	argv, err := qemu.Args(cfg)
	if err != nil {
		return nil, err
	}
	spec := launch.Spec{
		Name: rec.Name, UUID: rec.UUID, Argv: argv, Dir: "/", LogPath: filepath.Join(l.g.dir(), qemuLog),
		Files: files, MemoryBytes: int64(rec.MemoryMiB) << 20, Needs: needs(cfg),
	}
	if rec.Resources != nil {
		spec.Resources = launch.Resources(*rec.Resources)
	}
	return l.g.fleet.Launcher.Start(ctx, spec)
}

// launchCode is the code of a QEMU that could not be launched.
func launchCode(err error) fault.Code {
	switch {
	case errors.Is(err, launch.ErrNoSystemd):
		return fault.NoSystemd
	case errors.Is(err, launch.ErrRuns):
		return fault.UnitTaken
	case errors.Is(err, qemu.ErrImage):
		return fault.DiskImage
	case errors.Is(err, qemu.ErrDisk):
		return fault.Disk
	case errors.Is(err, qemu.ErrTap):
		return fault.Network
	case errors.Is(err, roots.ErrRefused):
		return fault.Path
	}
	return fault.Launch
}

// needs is what QEMU must be let do.
func needs(cfg *qemu.Config) launch.Needs {
	n := launch.Needs{Translates: cfg.Accel != "kvm", Network: slices.ContainsFunc(cfg.Nets, func(n qemu.Net) bool { return n.User })}
	if !n.Translates {
		n.Devices = []string{"/dev/kvm"}
	}
	return n
}

// startFault finds the words for a failed start.
func (l *life) startFault(rec *store.Guest, err error) error {
	var refused *platform.RefusedError
	switch {
	case errors.As(err, &refused):
		return fault.New(fault.Refused, "start guest %s: %w", rec.Name, refused)
	case l.waitExit(time.Second): // its sockets end a moment before it does
		message := withTail(fmt.Sprintf("QEMU of guest %s ended at once: %s", rec.Name, l.proc.Exit()), "its last words", filepath.Join(l.g.dir(), qemuLog))
		return fault.New(fault.Launch, "%s", message)
	}
	return fault.New(fault.Launch, "start guest %s: %w", rec.Name, err)
}

// adopt takes over a guest that an earlier hostagent left running.
func (l *life) adopt(ctx context.Context) {
	rec := l.g.Snapshot()
	dialing, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	monitor, err := qemu.Dial(dialing, filepath.Join(l.g.fleet.runDir(rec.Name), qmpSocket))
	if err == nil {
		l.monitor = monitor
		var pid int
		if pid, err = monitor.PeerPID(); err == nil && pid != rec.Process.PID {
			err = fmt.Errorf("QMP is served by process %d, not %d", pid, rec.Process.PID)
		}
	}
	if err != nil && ctx.Err() == nil {
		// The process is the right one, by its identity: it is not ended for a
		// monitor that does not answer. Without one its last words are missed.
		l.g.fleet.Log.Error("guest goes on without QMP", journal.NoMonitor, "guest", rec.Name, "error", err)
		if l.monitor != nil {
			l.monitor.Close()
			l.monitor = nil
		}
	}
	l.ready = State(rec.State) == Ready
	if State(rec.State) == Stopping {
		l.ready = slices.ContainsFunc(rec.Stages, func(s store.Stage) bool { return s.Name == readiness.StageReady })
		l.order(order{timeout: DefaultStop})
	}
	// A guest may have become ready while nobody listened, and needs time to say so.
	l.patience = adoptPatience
	l.follow(ctx, true)
}
