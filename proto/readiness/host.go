package readiness

import (
	"bytes"
	"time"
)

// HostRate is how many bytes of a guest a host reads in a second; the guest waits
// then.
const HostRate = 256 << 10

// Host is the host's end of the protocol, hostagent's. It is a pure state
// machine: events in, messages out. What it holds is bounded whatever the guest
// sends: one line, and the one question that is open.
//
//	            Connected: HELLO, PING, what is open
//	not connected ────────────────────▶ connected, version 1
//	    ▲  ▲                                 │ HELLO n of the guest
//	    │  └──── Lost ───────────────────────┤
//	    └─────── Lost ──── connected, version min(n, Version)
type Host struct {
	lines     Lines
	connected bool
	version   uint16 // that is talked, 0: not connected
	guest     uint16 // the highest that the guest speaks, 0: not known
	off       bool   // the guest is to power off
	asked     *[NonceSize]byte

	bad    uint64 // lines that are no message
	window time.Time
	got    int // bytes since then
}

// Connected begins a connection: what is to be written first. What was asked for
// and may have been lost with the last connection is asked again.
func (h *Host) Connected() []Message {
	h.lines = Lines{}
	h.connected, h.version, h.got = true, 1, 0
	// The guest answers PING with all that was said before anybody listened.
	out := []Message{HostHello{Version}, Ping{"01"}}
	if h.off {
		out = append(out, PowerOff{})
	}
	if h.asked != nil {
		out = append(out, Challenge{*h.asked})
	}
	return out
}

// Lost ends a connection.
func (h *Host) Lost() { h.connected, h.version = false, 0 }

// Version is the version that is talked, 0 while not connected; guest is the
// highest that the guest speaks, 0 while it has not said so.
func (h *Host) Version() (talked, guest uint16) { return h.version, h.guest }

// PowerOff has the guest asked to power off, now and at each later connection.
func (h *Host) PowerOff() []Message {
	h.off = true
	return h.now(PowerOff{})
}

// Ask opens a question. Forget closes it.
func (h *Host) Ask(nonce [NonceSize]byte) []Message {
	h.asked = &nonce
	return h.now(Challenge{nonce})
}

// Forget closes the question: an answer that comes later is nobody's.
func (h *Host) Forget() { h.asked = nil }

// now says a message to a guest that is there.
func (h *Host) now(m Message) []Message {
	if !h.connected {
		return nil
	}
	return []Message{m}
}

// Read takes what the guest wrote and returns what is to be told: hints, and the
// answer to the open question. A report that does not have its nonce in it can't
// be that; whether it proves anything is its asker's to find out.
func (h *Host) Read(b []byte) (told []Message) {
	h.got += len(b)
	for len(b) > 0 {
		line, rest, ok := h.lines.Next(b)
		if b = rest; !ok {
			continue
		}
		m, err := ParseGuest(line)
		if err != nil {
			h.bad++
			continue
		}
		switch m := m.(type) {
		case Hello:
			h.guest = m.Version
			h.version = min(m.Version, Version)
		case Report:
			if h.asked == nil || !bytes.Contains(m.COSE, h.asked[:]) {
				continue
			}
			h.asked = nil
		}
		told = append(told, m)
	}
	h.bad += h.lines.Dropped
	h.lines.Dropped = 0
	return told
}

// Bad counts lines that are no message since it was called last.
func (h *Host) Bad() uint64 {
	n := h.bad
	h.bad = 0
	return n
}

// Pause is how long not to read, so that a guest can't take the host's CPU.
func (h *Host) Pause(now time.Time) time.Duration {
	if d := now.Sub(h.window); d < 0 || d >= time.Second {
		h.window, h.got = now, 0
		return 0
	}
	if h.got < HostRate {
		return 0
	}
	wait := h.window.Add(time.Second).Sub(now)
	h.window, h.got = now.Add(wait), 0
	return wait
}
