package sealed

import "github.com/secexec/secexec/secret"

// Handoff is what guestinit tells guestagent, over a socket that nobody else
// has: the one part of the record that outlives guestinit. Its owner calls Wipe.
type Handoff struct {
	IdentitySeed secret.Bytes // Ed25519 seed, SeedSize bytes
	ImageID      [IDSize]byte
	RootID       [IDSize]byte
	RootMode     Mode
	BootID       [IDSize]byte
	StopSignal   uint8 // for the root's init; 0: guestinit stays PID 1 and is told over the socket
	Ready        Ready
	Channel      *Channel
	Stages       []Stage // passed so far, in order
}

// Stage is a stage of the boot and when it was reached, in milliseconds since
// the kernel started.
type Stage struct {
	Name   string
	Millis uint64
}

// Limits of a handoff.
const (
	MaxHandoff   = 8 << 10 // bytes of its encoding
	maxStages    = 16
	maxStageName = 32
)

// Wipe overwrites the seed.
func (h *Handoff) Wipe() { h.IdentitySeed.Wipe() }

func (h *Handoff) fields(c *codec) {
	c.secret(&h.IdentitySeed, SeedSize)
	c.fixed(h.ImageID[:])
	c.fixed(h.RootID[:])
	c.u8((*uint8)(&h.RootMode))
	c.fixed(h.BootID[:])
	c.u8(&h.StopSignal)
	c.u8((*uint8)(&h.Ready))
	maybe(c, &h.Channel, func(c *codec, ch *Channel) { ch.fields(c) })
	list(c, &h.Stages, maxStages, func(c *codec, s *Stage) {
		c.text(&s.Name, maxStageName)
		c.u64(&s.Millis)
	})
}

func (h *Handoff) check() error {
	switch {
	case len(h.IdentitySeed) != SeedSize:
		return invalid("handoff with a seed of %d bytes", len(h.IdentitySeed))
	case len(h.Stages) > maxStages:
		return invalid("handoff with %d stages", len(h.Stages))
	case h.RootMode > Verity || h.StopSignal > 64 || h.Ready > ReadyAtNotify:
		return invalid("handoff with mode %d, signal %d, ready at %d", h.RootMode, h.StopSignal, h.Ready)
	}
	return h.Channel.check()
}

// Marshal returns the handoff's one encoding, fields in the order of fields.
// The caller wipes it.
func (h *Handoff) Marshal() (secret.Bytes, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	c := codec{b: make([]byte, 0, 2*MaxHandoff)} // never grows
	h.fields(&c)
	if c.err == nil && len(c.b) > MaxHandoff {
		c.fail("handoff of %d bytes, at most %d", len(c.b), MaxHandoff)
	}
	return c.b, c.err
}

// UnmarshalHandoff parses an encoded handoff. The result shares no memory with b.
func UnmarshalHandoff(b []byte) (*Handoff, error) {
	h := &Handoff{}
	c := codec{b: b, decoding: true}
	if len(b) > MaxHandoff {
		c.fail("handoff of %d bytes, at most %d", len(b), MaxHandoff)
	}
	h.fields(&c)
	if c.err == nil && len(c.b) != 0 {
		c.fail("%d bytes after the handoff", len(c.b))
	}
	if c.err == nil {
		c.err = h.check()
	}
	if c.err != nil {
		h.Wipe()
		return nil, c.err
	}
	return h, nil
}
