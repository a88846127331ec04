// Command guestagent is the process of guestinit's that stays in a sealed guest
// beside the root's init. It answers challenges with signed readiness reports
// and asks the root's init to power off when the host does. That is all that a
// host may ask.
//
// It runs from the emptied initramfs: its / has nothing in it. It sleeps in
// poll until the host writes, and holds no more than one line.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/readiness"
)

// Descriptors from guestinit.
const (
	initFD = 3 // packets from guestinit: the file with the handoff, then end of file at the hand-over
	portFD = 4 // readiness port, non-blocking
)

// Bounds of waiting.
const (
	hangUpPause   = 250 * time.Millisecond // while nobody on the host has the port open
	writePatience = 2000                   // milliseconds for one line; then it is dropped
	perSecond     = 50                     // lines answered at most
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
	// What is used is locked. All that Go has reserved would be 70 MiB. A root
	// without swap does not need it.
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)

	h, err := readHandoff()
	if err != nil {
		return err
	}
	defer h.Wipe()
	bootKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make boot key: %w", err)
	}
	a := newAgent(h, bootKey, func() {
		_ = unix.Kill(1, unix.Signal(h.StopSignal))
	})
	h.IdentitySeed.Wipe()

	// End of file: PID 1 has become the root's init.
	var end [1]byte
	if n, err := unix.Read(initFD, end[:]); n != 0 || err != nil {
		return fmt.Errorf("wait for the hand-over: %d bytes, %w", n, err)
	}
	unix.Close(initFD)
	send(a.pass(readiness.StageReady, millis()))
	return serve(a)
}

// serve answers lines until the port is gone. It waits in poll without an end:
// the host may stay silent for years.
func serve(a *agent) error {
	var lines readiness.Lines
	buf := make([]byte, 4096)
	limit := limiter{}
	for {
		events := []unix.PollFd{{Fd: portFD, Events: unix.POLLIN}}
		if _, err := unix.Poll(events, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for readiness port: %w", err)
		}
		switch e := events[0].Revents; {
		case e&unix.POLLNVAL != 0:
			return errors.New("no readiness port") // a guest without one
		case e&unix.POLLIN == 0 && e&(unix.POLLHUP|unix.POLLERR) != 0:
			lines.Reset()
			time.Sleep(hangUpPause)
			continue
		}
		n, err := unix.Read(portFD, buf)
		switch {
		case errors.Is(err, unix.ENODEV):
			return fmt.Errorf("read readiness port: %w", err) // unplugged
		case n == 0 && err == nil:
			time.Sleep(hangUpPause)
			continue
		case n <= 0:
			continue
		}
		lines.Feed(buf[:n], func(line string) {
			limit.wait(time.Now, time.Sleep)
			for _, m := range a.answer(line) {
				send(m)
			}
		})
	}
}

// send writes one line whole, or gives up after writePatience.
func send(m readiness.Message) {
	b := append([]byte(m.String()), '\n')
	for len(b) > 0 {
		n, err := unix.Write(portFD, b)
		if n > 0 {
			b = b[n:]
			continue
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return
		}
		events := []unix.PollFd{{Fd: portFD, Events: unix.POLLOUT}}
		if ready, err := unix.Poll(events, writePatience); ready == 0 || err != nil && !errors.Is(err, unix.EINTR) || events[0].Revents&unix.POLLHUP != 0 {
			return
		}
	}
}

// millis is the time since the kernel started.
func millis() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}
