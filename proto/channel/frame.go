// Package channel is the owner's channel beneath ttrpc: sessions over one byte
// stream that the host can cut anywhere, and TLS 1.3 in them by keys alone.
//
//	owner                        host                        guest
//	  │ ── OPEN session ──────────┼─────────────────────────▶ │ ends an older session
//	  │ ◀─ ACCEPT session ────────┼────────────────────────── │
//	  │ ── DATA session, bytes ──▶┼─────────────────────────▶ │ TLS 1.3, ttrpc within
//	  │ ◀─ DATA session, bytes ───┼────────────────────────── │
//	  └ ── CLOSE session ─────────┼─────────────────────────▶ ┘ or from the guest
//
// A virtio-serial port is one stream for all sessions, and what a cut one has
// left in its buffers comes before, or within, the next. So the stream is frames
// that can be told apart from any byte on, and each names its session:
//
//	00, COBS( kind (1 byte), session (8), size of the payload (2), payload ), 00
//
// COBS (consistent overhead byte stuffing, Cheshire and Baker 1999) writes bytes
// without a zero, so a zero is always a frame's end; the size tells a whole frame
// from a cut one. None of this is secret or
// authentic; that is TLS's part. Here nothing but order is kept.
package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// PortName is the name of the virtio-serial port that carries the channel.
const PortName = "org.secexec.channel.0"

// MaxPayload bounds a frame's payload in bytes.
const MaxPayload = 16 << 10

const (
	headerSize = 1 + 8 + 2
	maxEncoded = headerSize + MaxPayload + (headerSize+MaxPayload)/254 + 1
)

// Kind is what a frame is for.
type Kind byte

// Kinds of frames. Only Data has a payload, of at least a byte.
const (
	Open   Kind = 1 // the owner begins a session; its number is new and random
	Accept Kind = 2 // the guest serves it
	Data   Kind = 3
	Close  Kind = 4 // the sender's end: nothing more comes
)

// ErrFrame is wrapped by every error about a frame's bytes.
var ErrFrame = errors.New("invalid frame of the channel")

// Frame is one frame.
type Frame struct {
	Kind    Kind
	Session uint64
	Payload []byte
}

// Bytes returns the frame as it is sent, zeros at both ends.
func (f Frame) Bytes() []byte {
	raw := make([]byte, 0, headerSize+len(f.Payload))
	raw = binary.BigEndian.AppendUint64(append(raw, byte(f.Kind)), f.Session)
	raw = append(binary.BigEndian.AppendUint16(raw, uint16(len(f.Payload))), f.Payload...)
	out := make([]byte, 1, len(raw)+len(raw)/254+3)
	out = append(out, 0) // the first block's code
	code := 1            // where it is
	for i, b := range raw {
		if b != 0 {
			out = append(out, b)
		}
		full := len(out)-code == 255
		if b == 0 || full && i < len(raw)-1 {
			out[code] = byte(len(out) - code)
			code = len(out)
			out = append(out, 0)
		}
	}
	out[code] = byte(len(out) - code)
	return append(out, 0)
}

// Parse parses what is between two zeros. The payload is memory of its own.
func Parse(b []byte) (Frame, error) {
	if len(b) > maxEncoded {
		return Frame{}, fmt.Errorf("%w: %d bytes", ErrFrame, len(b))
	}
	raw := make([]byte, 0, len(b))
	for last := 0; len(b) > 0; {
		code := int(b[0])
		if code == 0 || code > len(b) || last == 255 && code == 1 && len(b) == 1 {
			return Frame{}, fmt.Errorf("%w: stuffing", ErrFrame)
		}
		for _, c := range b[1:code] {
			if c == 0 {
				return Frame{}, fmt.Errorf("%w: stuffing", ErrFrame)
			}
		}
		raw = append(raw, b[1:code]...)
		if b = b[code:]; code != 255 && len(b) > 0 {
			raw = append(raw, 0)
		}
		last = code
	}
	if len(raw) < headerSize {
		return Frame{}, fmt.Errorf("%w: %d bytes", ErrFrame, len(raw))
	}
	f := Frame{Kind: Kind(raw[0]), Session: binary.BigEndian.Uint64(raw[1:]), Payload: raw[headerSize:]}
	switch {
	case f.Kind < Open || f.Kind > Close || f.Session == 0:
		return Frame{}, fmt.Errorf("%w: kind %d of session %d", ErrFrame, f.Kind, f.Session)
	case int(binary.BigEndian.Uint16(raw[9:])) != len(f.Payload):
		return Frame{}, fmt.Errorf("%w: cut to %d bytes", ErrFrame, len(f.Payload))
	case (f.Kind == Data) != (len(f.Payload) > 0) || len(f.Payload) > MaxPayload:
		return Frame{}, fmt.Errorf("%w: kind %d with %d bytes", ErrFrame, f.Kind, len(f.Payload))
	}
	return f, nil
}

// reader finds frames in a stream. What is none is passed over: the next zero
// begins anew.
type reader struct {
	r      io.Reader
	buf    []byte // read, not looked at
	frame  []byte // so far
	excess bool   // it is too long
}

// next returns the next frame, or the stream's error.
func (r *reader) next() (Frame, error) {
	for {
		for i, b := range r.buf {
			if b != 0 {
				if r.excess = r.excess || len(r.frame) == maxEncoded; !r.excess {
					r.frame = append(r.frame, b)
				}
				continue
			}
			f, err := Parse(r.frame)
			ok := !r.excess && err == nil
			r.frame, r.excess = r.frame[:0], false
			if ok {
				r.buf = r.buf[i+1:]
				return f, nil
			}
		}
		buf := make([]byte, 4096)
		n, err := r.r.Read(buf)
		r.buf = buf[:n]
		if n == 0 && err != nil {
			return Frame{}, err
		}
	}
}
