// Command guestagent is the process of guestinit's that stays in a sealed guest
// beside the workload. It answers challenges with signed readiness reports, hears
// the workload's notifications and asks it to end when the host does. That is all
// that a host may ask. Where the sealed plan has a channel, it serves the owner
// on it.
//
// It runs from the emptied initramfs: its / has nothing in it, and its working
// directory is /proc. It sleeps until somebody has something for it, and what it
// holds is bounded.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
)

// Descriptors from guestinit. Any but the first may be missing.
const (
	initFD   = 3 // packets from guestinit: the handoff, then end of file at the hand-over, or package workload
	portFD   = 4 // readiness port, non-blocking
	notifyFD = 5 // the workload's notification socket

	// Where the record has a channel.
	channelFD = 6 // its port, non-blocking
	vsockFD   = 7 // its listening socket, non-blocking
	secretsFD = 8 // folder of delivered secrets
	cgroupFD  = 9 // guestagent's own cgroup
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guestagent:", err)
		os.Exit(1)
	}
}

func run() error {
	// The root's init ends everything at shutdown with these first; this process
	// stays to the end, and its end never hurts the workload.
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	debug.SetMemoryLimit(8 << 20)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// A root without swap does not need it. What was never touched is not made
	// resident: the runtime's arena alone would be 64 MiB.
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)

	oomScore.set(neverKilled) // as good as PID 1's own

	h, err := readHandoff()
	if err != nil {
		return err
	}
	defer h.Wipe()
	bootKey, bootPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make boot key: %w", err)
	}
	stop := func() { tell(workload.Stop{}) }
	if h.StopSignal != 0 {
		stop = func() { _ = unix.Kill(1, unix.Signal(h.StopSignal)) }
	}
	a := newAgent(h, bootKey, millis(), stop, func() { tell(workload.Restart{}) })
	h.IdentitySeed.Wipe()
	if h.Channel != nil {
		if err := a.serveOwner(h, bootPrivate); err != nil {
			return err
		}
	}
	return serve(a, h.StopSignal == 0)
}

// tell tells guestinit, where it is PID 1 still.
func tell(m workload.Message) {
	_ = unix.Send(initFD, m.Bytes(), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// millis is the time since the kernel started.
func millis() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}
