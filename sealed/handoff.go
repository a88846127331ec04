package sealed

import (
	"bytes"
	"encoding/binary"

	"github.com/secexec/secexec/secret"
)

// Handoff is what guestinit tells guestagent, over a pipe that nobody else has:
// the one part of the record that outlives guestinit. Its owner calls Wipe.
type Handoff struct {
	IdentitySeed secret.Bytes // Ed25519 seed, 32 bytes
	ImageID      [IDSize]byte
	RootID       [IDSize]byte
	BootID       [IDSize]byte
	StopSignal   uint8
	Stages       []Stage // passed so far, in order
}

// Stage is a stage of the boot and when it was reached, in milliseconds since
// the kernel started.
type Stage struct {
	Name   string
	Millis uint64
}

// maxStages bounds the stages of a handoff.
const maxStages = 16

// Wipe overwrites the seed.
func (h *Handoff) Wipe() { h.IdentitySeed.Wipe() }

// Marshal returns the handoff's one encoding: seed 32, image id 16, root id 16,
// boot id 16, stop signal u8, stage count u8, each stage: name as u16 length
// and bytes, milliseconds u64. The caller wipes it.
func (h *Handoff) Marshal() (secret.Bytes, error) {
	if len(h.IdentitySeed) != 32 || len(h.Stages) > maxStages {
		return nil, invalid("handoff with a seed of %d bytes and %d stages", len(h.IdentitySeed), len(h.Stages))
	}
	b := make(secret.Bytes, 0, 4<<10) // never grows
	b = append(b, h.IdentitySeed...)
	b = append(b, h.ImageID[:]...)
	b = append(b, h.RootID[:]...)
	b = append(b, h.BootID[:]...)
	b = append(b, h.StopSignal, uint8(len(h.Stages)))
	for _, s := range h.Stages {
		if len(s.Name) > 32 {
			return nil, invalid("stage name of %d bytes", len(s.Name))
		}
		b = appendString(b, s.Name)
		b = binary.BigEndian.AppendUint64(b, s.Millis)
	}
	return b, nil
}

// UnmarshalHandoff parses an encoded handoff. The result shares no memory with b.
func UnmarshalHandoff(b []byte) (*Handoff, error) {
	d := decoder{b: b}
	h := &Handoff{IdentitySeed: bytes.Clone(d.take(32))}
	copy(h.ImageID[:], d.take(IDSize))
	copy(h.RootID[:], d.take(IDSize))
	copy(h.BootID[:], d.take(IDSize))
	h.StopSignal = d.byte()
	n := d.byte()
	if n > maxStages && d.err == nil {
		d.err = invalid("handoff with %d stages", n)
	}
	for i := byte(0); i < n && d.err == nil; i++ {
		h.Stages = append(h.Stages, Stage{d.string(), binary.BigEndian.Uint64(d.take(8))})
	}
	if d.err == nil && len(d.b) != 0 {
		d.err = invalid("%d bytes after the handoff", len(d.b))
	}
	if d.err != nil {
		h.Wipe()
		return nil, d.err
	}
	return h, nil
}
