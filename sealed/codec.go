package sealed

import (
	"bytes"
	"encoding/binary"

	"github.com/secexec/secexec/secret"
)

// Encoding, big-endian throughout:
//
//	magic    8   "SxSealed"
//	version  u16 2
//	length   u32 bytes of the whole record
//	fields   in the order below, each present exactly once
//
//	image id 16 | identity seed 32 | init str | stop signal u8 |
//	root volume |
//	data u16 count, each: volume | mount point str |
//	modules u16 count, each: file str | optional u8
//
// where a volume is
//
//	id 16 | found by u8: 0 serial str, 1 partition GUID 16 | key 64 | cipher str |
//	offset u64 | size u64 | fs type str | read-only u8
//
// str is u16 length and that many bytes; a flag is 0 or 1.
const (
	magic   = "SxSealed"
	version = 2
	header  = len(magic) + 2 + 4
)

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
	b := make([]byte, 0, MaxSize) // never grows, so no copy of a secret is left behind
	b = append(b, magic...)
	b = be.AppendUint16(b, version)
	b = be.AppendUint32(b, 0)
	b = append(b, r.ImageID[:]...)
	b = append(b, r.IdentitySeed...)
	b = appendString(b, r.Init)
	b = append(b, r.StopSignal)
	b = appendVolume(b, &r.Root)
	b = be.AppendUint16(b, uint16(len(r.Data)))
	for i := range r.Data {
		b = appendVolume(b, &r.Data[i].Volume)
		b = appendString(b, r.Data[i].Mount)
	}
	b = be.AppendUint16(b, uint16(len(r.Modules)))
	for _, m := range r.Modules {
		b = appendString(b, m.File)
		b = appendFlag(b, m.Optional)
	}
	be.PutUint32(b[len(magic)+2:], uint32(len(b)))
	return b
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
	d := decoder{b: b[header:]}
	r := &Record{}
	copy(r.ImageID[:], d.take(IDSize))
	r.IdentitySeed = bytes.Clone(d.take(32))
	r.Init = d.string()
	r.StopSignal = d.byte()
	d.volume(&r.Root)
	n := int(be.Uint16(d.take(2)))
	for i := 0; i < n && i <= MaxData && d.err == nil; i++ {
		r.Data = append(r.Data, DataVolume{})
		d.volume(&r.Data[i].Volume)
		r.Data[i].Mount = d.string()
	}
	n = int(be.Uint16(d.take(2)))
	for i := 0; i < n && i <= MaxModules && d.err == nil; i++ {
		r.Modules = append(r.Modules, Module{File: d.string(), Optional: d.flag()})
	}
	err := d.err
	if err == nil {
		err = r.Check()
	}
	if err == nil && len(d.b) != 0 {
		err = invalid("%d bytes after the last field", len(d.b))
	}
	if err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendFlag(b []byte, f bool) []byte {
	if f {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder takes fields off the front of b. After the first error take gives
// zeros, so that callers check once, at the end.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && len(d.b) < n {
		d.err = invalid("ends within a field")
	}
	if d.err != nil {
		return make([]byte, n)
	}
	field := d.b[:n]
	d.b = d.b[n:]
	return field
}

func (d *decoder) byte() byte { return d.take(1)[0] }

func (d *decoder) flag() bool {
	f := d.byte()
	if f > 1 && d.err == nil {
		d.err = invalid("flag is %d, wants 0 or 1", f)
	}
	return f == 1
}

func (d *decoder) string() string {
	n := int(binary.BigEndian.Uint16(d.take(2)))
	if n > MaxPath && d.err == nil {
		d.err = invalid("string of %d bytes, at most %d", n, MaxPath)
	}
	if d.err != nil {
		return ""
	}
	return string(d.take(n))
}
