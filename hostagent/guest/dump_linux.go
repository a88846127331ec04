package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/seimage"
)

// Bounds of a dump.
const (
	dumpStall  = time.Minute      // without a byte taken, before the dump is given up
	dumpFinish = 10 * time.Second // for QEMU to say how it ended
	dumpPiece  = 1 << 20          // bytes
)

// Dump makes a protected dump of a running guest and hands it to take, piece by
// piece and in order; total is the guest's memory in bytes, 0 while unknown. The
// pieces belong to Dump. The guest stands still until Dump returns, and for a
// minute at most while nothing is taken. Unless Dump returns nil, what was taken
// is no dump.
func (g *Guest) Dump(ctx context.Context, take func(piece []byte, total uint64) error) error {
	rec := g.Snapshot()
	if err := g.mayDump(); err != nil {
		return err
	}
	l := g.current()
	if l == nil || State(rec.State) != Running && State(rec.State) != Ready {
		return g.notRunning("dumped")
	}
	monitor := l.published.Load()
	if monitor == nil {
		return fault.New(fault.NoDump, "guest %s runs without QMP, by which a dump is asked for", rec.Name)
	}
	if !g.dumping.CompareAndSwap(false, true) {
		return fault.New(fault.WrongState, "guest %s is being dumped", rec.Name)
	}
	defer g.dumping.Store(false)
	if err := dump(ctx, monitor, dumpStall, take); err != nil {
		return fault.New(fault.NoDump, "dump guest %s: %w", rec.Name, err)
	}
	return nil
}

// mayDump refuses what could be no protected dump.
func (g *Guest) mayDump() error {
	f, rec := g.fleet, g.Snapshot()
	if !f.Platform.Protected() {
		return fault.New(fault.NoDump, "guest %s runs on the %s platform, which can't encrypt a dump: it would hold in plain text what its owner sealed", rec.Name, f.Platform.Name())
	}
	limits, err := f.Platform.Limits()
	if err != nil {
		return fault.New(fault.Node, "dump guest %s: %w", rec.Name, err)
	}
	if !limits.Dump {
		return fault.New(fault.NoDump, "guest %s can't be dumped here: the node's ultravisor or kernel has no protected dump (z16 or later, Linux 6.0 or later)", rec.Name)
	}
	path := filepath.Join(g.dir(), rec.Image)
	file, err := os.Open(path)
	if err != nil {
		return fault.New(fault.Storage, "dump guest %s: %w", rec.Name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fault.New(fault.Storage, "dump guest %s: %w", rec.Name, err)
	}
	img, err := seimage.OpenHeader(file, info.Size())
	if err != nil {
		return fault.New(fault.Bundle, "dump guest %s: %w", rec.Name, err)
	}
	if img.Header.PCF&seimage.AllowDump == 0 {
		return fault.New(fault.NoDump, "the image of guest %s forbids dumps: its owner would have to seal it with --enable-dump", rec.Name)
	}
	return nil
}

// dump runs one dump through a pipe. Whatever ends it early closes the pipe's
// end here, on which QEMU gives up and lets the guest go on; there is no other
// way to cancel one.
func dump(ctx context.Context, monitor *qemu.Monitor, stall time.Duration, take func([]byte, uint64) error) error {
	r, w, err := dumpPipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = monitor.Dump(ctx, w)
	w.Close() // QEMU has its own
	if err != nil {
		return err
	}
	var stalled atomic.Bool
	watch := time.AfterFunc(stall, func() { stalled.Store(true); r.Close() })
	defer watch.Stop()
	defer context.AfterFunc(ctx, func() { r.Close() })()
	err = passOn(ctx, r, monitor, func(piece []byte, total uint64) error {
		err := take(piece, total)
		watch.Reset(stall)
		return err
	})
	r.Close()
	status, ended := dumpEnd(ctx, monitor)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case stalled.Load():
		return fmt.Errorf("given up: for %s nothing was written or nobody took it", stall)
	case err != nil:
		return err
	case ended != nil:
		return ended
	case status.State != "completed":
		return fmt.Errorf("QEMU says %q of it", status.State)
	}
	return nil
}

// passOn hands on what QEMU writes until it closes the pipe.
func passOn(ctx context.Context, r io.Reader, monitor *qemu.Monitor, take func([]byte, uint64) error) error {
	piece := make([]byte, dumpPiece)
	var total uint64
	var asked time.Time
	for {
		n, err := r.Read(piece)
		if total == 0 && time.Since(asked) > time.Second {
			status, _ := monitor.DumpStatus(ctx) // for people; without it there is no percentage
			total, asked = status.Total, time.Now()
		}
		if n > 0 {
			if err := take(piece[:n], total); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read dump: %w", err)
		}
	}
}

// dumpEnd waits until QEMU is no longer at it, also after a cancellation: the
// next dump would be refused before.
func dumpEnd(ctx context.Context, monitor *qemu.Monitor) (qemu.DumpStatus, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dumpFinish)
	defer cancel()
	for {
		status, err := monitor.DumpStatus(ctx)
		if err != nil || status.State != "active" {
			return status, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return status, fmt.Errorf("QEMU does not end it within %s", dumpFinish)
		}
	}
}

// dumpPipe makes a pipe whose writing end blocks, as QEMU wants, while the
// reading end can be closed at any time.
func dumpPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, dumpPiece) // larger is faster
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "dump"), os.NewFile(uintptr(fds[1]), "dump"), nil
}
