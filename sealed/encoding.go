package sealed

import (
	"encoding/binary"

	"github.com/secexec/secexec/secret"
)

// A record begins with
//
//	magic    8   "SxSealed"
//	version  u16 3
//	length   u32 bytes of the whole record
//
// and its fields follow in the order of fields, each exactly once.
const (
	magic   = "SxSealed"
	version = 3
	header  = len(magic) + 2 + 4
)

// fields is the encoding; docs/formats/sealed-record.md is the same in words.
func (r *Record) fields(c *codec) {
	c.fixed(r.ImageID[:])
	c.secret(&r.IdentitySeed, SeedSize)
	c.secret(&r.EntropySeed, SeedSize)
	list(c, &r.Modules, MaxModules, func(c *codec, m *Module) {
		c.path(&m.File)
		c.flag(&m.Optional)
	})
	r.Hardening.fields(c)
	r.Root.fields(c)
	maybe(c, &r.Overlay, func(c *codec, o *Overlay) { o.fields(c) })
	list(c, &r.Data, MaxData, func(c *codec, d *DataVolume) {
		d.Volume.fields(c)
		c.path(&d.Mount)
	})
	maybe(c, &r.Swap, func(c *codec, v *Volume) { v.fields(c) })
	maybe(c, &r.Exec, func(c *codec, e *Exec) {
		c.path(&e.Init)
		c.u8(&e.StopSignal)
	})
	maybe(c, &r.Workload, func(c *codec, w *Workload) { w.fields(c) })
	c.u8((*uint8)(&r.Ready))
	maybe(c, &r.Channel, func(c *codec, ch *Channel) { ch.fields(c) })
}

// Marshal returns the record's one encoding. It holds secrets: the caller
// owns it and wipes it.
func (r *Record) Marshal() (secret.Bytes, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	b := r.encode()
	if len(b) > MaxSize {
		b.Wipe()
		return nil, invalid("%d bytes encoded, at most %d", len(b), MaxSize)
	}
	return b, nil
}

func (r *Record) encode() secret.Bytes {
	be := binary.BigEndian
	b := make([]byte, 0, 2*MaxSize) // never grows: Check bounds all lists and texts, so no copy of a secret is left behind
	b = append(b, magic...)
	b = be.AppendUint16(b, version)
	b = be.AppendUint32(b, 0)
	c := codec{b: b}
	r.fields(&c)
	be.PutUint32(c.b[len(magic)+2:], uint32(len(c.b)))
	return c.b
}

// Unmarshal parses an encoded record. The result shares no memory with b,
// which stays the caller's to wipe.
func Unmarshal(b []byte) (*Record, error) {
	be := binary.BigEndian
	switch {
	case len(b) > MaxSize:
		return nil, invalid("%d bytes, at most %d", len(b), MaxSize)
	case len(b) < header || string(b[:len(magic)]) != magic:
		return nil, invalid("no magic %q", magic)
	case be.Uint16(b[len(magic):]) != version:
		return nil, invalid("version %d, this guestinit knows %d", be.Uint16(b[len(magic):]), version)
	case int64(be.Uint32(b[len(magic)+2:])) != int64(len(b)):
		return nil, invalid("length field says %d, record has %d bytes", be.Uint32(b[len(magic)+2:]), len(b))
	}
	r := &Record{}
	c := codec{b: b[header:], decoding: true}
	r.fields(&c)
	err := c.err
	if err == nil && len(c.b) != 0 {
		err = invalid("%d bytes after the last field", len(c.b))
	}
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}
