package supervise

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
)

// Bounds of what the workload's words may take.
const (
	consolePatience = 200      // milliseconds that a chunk waits for the console, then it is dropped
	agentQueue      = 64 << 10 // bytes of words that may wait for guestagent: there is room for other messages besides
)

// output carries what the program writes to the console and to guestagent. It
// never waits for long: the console is the host's, and a host that does not take
// it must not stop the program. What is not taken is dropped; the console says
// how much that was.
type output struct {
	pipes   [2]int // that the program's standard output and error are read from
	console int    // non-blocking; -1: none
	agent   int    // socket; -1: none
	deaf    bool   // the console took nothing the last time
	dropped int
}

// run carries until nobody has the pipes' other ends any more.
func (o *output) run() {
	b := make([]byte, workload.MaxLog)
	for o.pipes[0] >= 0 || o.pipes[1] >= 0 {
		events := []unix.PollFd{{Fd: int32(o.pipes[0]), Events: unix.POLLIN}, {Fd: int32(o.pipes[1]), Events: unix.POLLIN}}
		if _, err := unix.Poll(events, -1); err != nil && err != unix.EINTR {
			return
		}
		for i, e := range events {
			if e.Revents == 0 {
				continue
			}
			n, err := unix.Read(o.pipes[i], b)
			switch {
			case n > 0:
				o.tell(workload.Log{Err: i == 1, Text: b[:n]})
				o.show(b[:n])
			case n == 0 || err != unix.EINTR && err != unix.EAGAIN:
				unix.Close(o.pipes[i])
				o.pipes[i] = -1 // poll leaves it out
			}
		}
	}
}

// show writes to the console.
func (o *output) show(b []byte) {
	if o.console < 0 {
		return
	}
	if o.dropped > 0 && !o.deaf {
		note := fmt.Appendf(nil, "\nsecexec: %d bytes of the workload's output were dropped\n", o.dropped)
		if n, _ := unix.Write(o.console, note); n < len(note) {
			o.dropped += len(b)
			return
		}
		o.dropped = 0
	}
	for len(b) > 0 {
		n, err := unix.Write(o.console, b)
		switch {
		case n > 0:
			b, o.deaf = b[n:], false
		case err == unix.EINTR:
		case err != unix.EAGAIN || o.deaf || !writable(o.console, consolePatience):
			o.deaf = true
			o.dropped += len(b)
			return
		}
	}
}

func writable(fd int, millis int) bool {
	events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, _ := unix.Poll(events, millis)
	return n > 0
}

// tell sends the program's words to guestagent, if it takes them.
func (o *output) tell(m workload.Log) {
	if o.agent < 0 {
		return
	}
	// The kernel writes four bytes: an int would hold them in its upper half.
	if queued, err := unix.IoctlGetUint32(o.agent, unix.SIOCOUTQ); err != nil || queued > agentQueue {
		return
	}
	_ = unix.Send(o.agent, m.Bytes(), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}
