package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of writing to the channel's port. The kernel wakes nobody when the
// host has taken something of a full queue (virtio_console has no interrupt for
// it), so a writer looks again, at most every writeLook.
const (
	portPatience = time.Minute // for the host to take anything, such as for an owner who reads logs page by page
	writeLook    = 20 * time.Millisecond
)

var errNotTaken = errors.New("the host takes nothing from the port")

// channelPort is the channel's virtio-serial port. A Read gives io.EOF once when the host's end is
// closed, and the next one waits until there is a host that writes: in the
// kernel, by the runtime's edge-triggered poller, without waking up meanwhile.
type channelPort struct {
	file *os.File // keeps raw alive
	raw  syscall.RawConn
	open bool // the host's end was
}

// newChannelPort takes over a non-blocking descriptor.
func newChannelPort(fd int) (*channelPort, error) {
	p := &channelPort{file: os.NewFile(uintptr(fd), "channel")}
	if p.file == nil {
		return nil, fmt.Errorf("open channel: no descriptor %d", fd)
	}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	return p, nil
}

// Read implements io.Reader.
func (p *channelPort) Read(b []byte) (n int, err error) {
	e := p.raw.Read(func(fd uintptr) bool {
		for n, err = unix.Read(int(fd), b); errors.Is(err, unix.EINTR); {
			n, err = unix.Read(int(fd), b)
		}
		switch {
		case n > 0: // there are bytes before the kernel has heard of the host that wrote them
			return true
		case errors.Is(err, unix.EAGAIN):
			p.open = true
			return false
		case err != nil:
			return true
		case p.open: // 0 bytes: nobody there any more
			p.open, err = false, io.EOF
			return true
		}
		return false
	})
	if e != nil {
		err = e
	}
	return max(0, n), err
}

// Write implements io.Writer.
func (p *channelPort) Write(b []byte) (done int, err error) {
	pause, until := time.Millisecond, time.Now().Add(portPatience)
	for done < len(b) {
		var n int
		if e := p.raw.Control(func(fd uintptr) { n, err = unix.Write(int(fd), b[done:]) }); e != nil {
			return done, e
		}
		switch {
		case n > 0:
			done += n
			pause, until = time.Millisecond, time.Now().Add(portPatience)
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return done, errors.Join(err, io.ErrShortWrite)
		case time.Now().After(until):
			return done, errNotTaken
		default:
			time.Sleep(pause)
			pause = min(2*pause, writeLook)
		}
	}
	return done, nil
}
