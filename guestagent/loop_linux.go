package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/workload"
)

// Bounds of one turn, so that none of the three is kept waiting by another.
const (
	portRead   = 4096 // bytes
	perTurn    = 32   // packets of guestinit's, datagrams of the workload's
	neverAgain = -1   // milliseconds of epoll_wait
	firstLook  = 50   // milliseconds before a full port is tried again, at first
	lastLook   = 5000 // and at most
)

// serve does what comes, to the guest's end. It waits without a time unless the
// workload has a watchdog: the host may stay silent for years.
//
// The port is watched for changes only (EPOLLET). A virtio-serial port says
// "hung up" all the time that nobody on the host has it open, and a loop that
// asks again and again would never sleep.
func serve(a *agent, supervised bool) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	defer unix.Close(epoll)
	watch := func(fd int, events uint32) bool {
		return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}) == nil
	}
	connected := watch(initFD, unix.EPOLLIN)
	if !connected {
		return fmt.Errorf("wait for guestinit: %w", os.ErrInvalid)
	}
	p := hostPort{
		open:  watch(portFD, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET), // a guest without one goes on
		read:  func(b []byte) (int, error) { return unix.Read(portFD, b) },
		write: func(b []byte) (int, error) { return unix.Write(portFD, b) },
	}
	if watch(notifyFD, unix.EPOLLIN) {
		_ = unix.SetNonblock(notifyFD, true)
	}
	_ = unix.SetNonblock(initFD, true)
	closed := false
	packet := make([]byte, workload.MaxMessage+1)
	events := make([]unix.EpollEvent, 3)
	for {
		n, err := unix.EpollWait(epoll, events, patience(a, &p))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for events: %w", err)
		}
		now := millis()
		for _, e := range events[:max(n, 0)] {
			switch e.Fd {
			case portFD:
				p.readable = true
			case notifyFD:
				for range perTurn {
					n, err := unix.Read(notifyFD, packet)
					if err != nil {
						break
					}
					a.notified(packet[:n], now)
				}
			case initFD:
				connected = a.hear(packet, supervised, now)
			}
		}
		a.do(a.guest.Tick(now))
		p.turn(a, now)
		// guestinit waits for this before it powers off: the host was told of the end.
		if a.guest.State() == readiness.Ended && (a.out.Pending() == nil || !p.open) {
			connected = false
		}
		if !connected && !closed {
			// Not closed: the number is told things for as long as this runs.
			_ = unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, initFD, nil)
			_ = unix.Shutdown(initFD, unix.SHUT_RDWR)
			closed = true
		}
	}
}

// patience is how long to wait for events, in milliseconds.
func patience(a *agent, p *hostPort) int {
	now := millis()
	at, ok := a.guest.Next(now)
	if p.open && p.there && p.look > 0 { // virtio-console tells nobody that the host took something
		at, ok = min(at, now+uint64(p.look)), true
	}
	switch {
	case p.open && p.readable && a.guest.Wants(now):
		return 0 // more to read than one turn takes
	case !ok:
		return neverAgain
	case at <= now:
		return 0
	}
	return int(min(at-now, 1<<30))
}

// hear takes what guestinit says. It tells whether there can be more.
func (a *agent) hear(packet []byte, supervised bool, now uint64) bool {
	for range perTurn {
		n, err := unix.Read(initFD, packet)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			return true
		case err != nil || n == 0:
			if !supervised && err == nil { // PID 1 has become the root's init
				a.do(a.guest.HandedOver(now))
			}
			return false
		}
		a.heard(packet[:n], now)
	}
	return true
}

// hostPort is the readiness port as its device shows it.
//
// The kernel hears of a host that comes or goes in another queue than of what it
// writes, so the first lines can be there before the host is: they are read, then
// nobody is there, and answers wait. Only a host that was seen to be there can
// hang up.
type hostPort struct {
	read, write func([]byte) (int, error) // as the system calls do

	open     bool // neither missing nor unplugged
	readable bool // as far as is known
	there    bool // the host was seen to have it open, and not to have closed it since
	look     int  // milliseconds, when to look whether a full port has room again; 0: it is not full
}

// turn reads once, as the guest's end wants it, and writes what can be written.
func (p *hostPort) turn(a *agent, now uint64) {
	if p.open && p.readable && a.guest.Wants(now) {
		var buf [portRead]byte
		switch n, err := p.read(buf[:]); {
		case n > 0:
			a.do(a.guest.Read(buf[:n], now))
		case errors.Is(err, unix.EINTR):
		case err == nil: // nobody on the host has it open
			p.readable, p.look = false, 0
			if p.there {
				p.there = false
				a.guest.HungUp()
				a.out.HungUp()
			}
		case errors.Is(err, unix.EAGAIN):
			p.readable, p.there = false, true
		default: // unplugged
			p.open = false
			unix.Close(portFD)
		}
	}
	for p.open {
		b := a.out.Pending()
		if b == nil {
			p.look = 0
			return
		}
		n, err := p.write(b)
		if n <= 0 && !errors.Is(err, unix.EINTR) { // full, or nobody there
			p.look = min(max(2*p.look, firstLook), lastLook)
			return
		}
		p.look, p.there = 0, true
		a.out.Wrote(max(n, 0))
	}
}
