// Package workload is what guestinit, PID 1 of a guest that runs one program,
// and guestagent tell each other about that program.
//
//	guestinit                                   guestagent
//	    │ ── RUNNING 0 ───────────────────────────▶ │ "ready", or wait for READY=1
//	    │ ── LOG out … ───────────────────────────▶ │ for the owner's channel
//	    │ ── EXITED 1 0, then RUNNING 1 ──────────▶ │
//	    │ ◀── SECRETS ──────────────────────────────┤ all of the plan's are there: the program may start
//	    │ ◀── RESTART ──────────────────────────────┤ the owner asks
//	    │ ◀── STOP ─────────────────────────────────┤ the host asks to power off
//	    └ ── DONE 0 ──────────────────────────────▶ │ power-off follows
//
// A guestinit that can't hand over, to a root's init or to a program, says FAILED
// instead. Of an init there is nothing else to say.
//
// A message is one packet on a SOCK_SEQPACKET socket pair: a line of ASCII
// without its end, and after LOG's blank bytes of the program's. Neither end
// waits for the other: what can't be sent at once is dropped.
package workload

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxMessage bounds a packet in bytes, and with it MaxLog the bytes of a Log.
const (
	MaxMessage = 8 << 10
	MaxLog     = MaxMessage - len("LOG out ")
)

// ErrMessage is wrapped by every error about a packet.
var ErrMessage = errors.New("invalid workload message")

// Message is one packet's content.
type Message interface{ Bytes() []byte }

// Messages from guestinit.
type (
	// Running says that the program was started for the Restarts+1st time.
	Running struct{ Restarts uint32 }
	// Exited says that the program ended: with a status of 0 to 255, where 128+n
	// is signal n.
	Exited struct {
		Status   uint8
		Restarts uint32
	}
	// Done says that the program is not run again and the guest powers off.
	Done struct{ Status uint8 }
	// Failed says that guestinit gives up after guestagent has the readiness port,
	// and powers off: with a code such as G111 (readiness.Failures).
	Failed struct{ Code string }
	// Log is what the program wrote to its standard output or, with Err, error.
	Log struct {
		Err  bool
		Text []byte
	}
)

// Messages from guestagent.
type (
	// Restart asks guestinit to stop the program in order and run it again.
	Restart struct{}
	// Stop asks guestinit to stop the program in order and power off.
	Stop struct{}
	// Secrets says that the owner has delivered all secrets of the plan; it may
	// be said again.
	Secrets struct{}
)

// Bytes returns the packet.
func (m Running) Bytes() []byte { return fmt.Appendf(nil, "RUNNING %d", m.Restarts) }

// Bytes returns the packet.
func (m Exited) Bytes() []byte { return fmt.Appendf(nil, "EXITED %d %d", m.Status, m.Restarts) }

// Bytes returns the packet.
func (m Done) Bytes() []byte { return fmt.Appendf(nil, "DONE %d", m.Status) }

// Bytes returns the packet.
func (m Failed) Bytes() []byte { return []byte("FAILED " + m.Code) }

// Bytes returns the packet.
func (m Log) Bytes() []byte {
	name := "out"
	if m.Err {
		name = "err"
	}
	return append([]byte("LOG "+name+" "), m.Text...)
}

// Bytes returns the packet.
func (Restart) Bytes() []byte { return []byte("RESTART") }

// Bytes returns the packet.
func (Stop) Bytes() []byte { return []byte("STOP") }

// Bytes returns the packet.
func (Secrets) Bytes() []byte { return []byte("SECRETS") }

// ParseInit parses a packet of guestinit's. A Log's text is a part of b.
func ParseInit(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	verb, rest, _ := strings.Cut(string(b[:min(len(b), 64)]), " ")
	f := strings.Split(rest, " ")
	switch {
	case verb == "LOG" && (f[0] == "out" || f[0] == "err") && len(f) > 1:
		return Log{f[0] == "err", b[len("LOG out "):]}, nil
	case verb == "RUNNING" && len(f) == 1:
		if n, err := strconv.ParseUint(f[0], 10, 32); err == nil {
			return canonical(Running{uint32(n)}, b)
		}
	case verb == "EXITED" && len(f) == 2:
		status, err1 := strconv.ParseUint(f[0], 10, 8)
		n, err2 := strconv.ParseUint(f[1], 10, 32)
		if err1 == nil && err2 == nil {
			return canonical(Exited{uint8(status), uint32(n)}, b)
		}
	case verb == "DONE" && len(f) == 1:
		if status, err := strconv.ParseUint(f[0], 10, 8); err == nil {
			return canonical(Done{uint8(status)}, b)
		}
	case verb == "FAILED" && len(f) == 1 && len(f[0]) == len("G111") && f[0][0] == 'G':
		if _, err := strconv.ParseUint(f[0][1:], 10, 16); err == nil {
			return canonical(Failed{f[0]}, b)
		}
	}
	return nil, fmt.Errorf("%w: %.40q", ErrMessage, b)
}

// ParseAgent parses a packet of guestagent's.
func ParseAgent(b []byte) (Message, error) {
	switch string(b) {
	case "RESTART":
		return Restart{}, nil
	case "STOP":
		return Stop{}, nil
	case "SECRETS":
		return Secrets{}, nil
	}
	return nil, fmt.Errorf("%w: %.40q", ErrMessage, b)
}

// canonical accepts a message only from the one packet that it is written as.
func canonical(m Message, b []byte) (Message, error) {
	if string(m.Bytes()) != string(b) {
		return nil, fmt.Errorf("%w: %.40q", ErrMessage, b)
	}
	return m, nil
}
