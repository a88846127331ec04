package luks2

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// Header is what a disk's LUKS2 header says.
type Header struct {
	UUID      string
	Label     string
	Subsystem string
	Sequence  uint64 // counts the header's changes
	Size      int64  // bytes of one copy: binary part and JSON area
	Damaged   string // which copy is damaged or missing: "", "first" or "second"
	Offset    int64  // bytes from the disk's start to the payload
	Payload   int64  // bytes of payload; 0: up to the disk's end
	Cipher    string // such as aes-xts-plain64
	Sector    int    // bytes
	Integrity string // such as hmac(sha256); "" without
	Keyslots  []Keyslot
	Digests   []Digest
	Tokens    int

	area *jsonArea
}

// Keyslot is what a header says of a key slot.
type Keyslot struct {
	ID         int    `json:"id"`
	Type       string `json:"type"`     // luks2, or reencrypt
	KeySize    int    `json:"key_size"` // bytes of the volume key
	Encryption string `json:"encryption"`
	Offset     int64  `json:"area_offset"` // of its area
	Size       int64  `json:"area_size"`
	Stripes    int    `json:"af_stripes,omitempty"`
	Hash       string `json:"af_hash,omitempty"`
	KDF        string `json:"pbkdf,omitempty"`
	KDFHash    string `json:"pbkdf_hash,omitempty"`
	Iterations int    `json:"iterations,omitempty"`
	Time       int    `json:"time,omitempty"`
	Memory     int    `json:"memory,omitempty"` // KiB
	CPUs       int    `json:"cpus,omitempty"`
}

// Digest is what a header says of a digest of the volume key.
type Digest struct {
	ID         int      `json:"id"`
	Type       string   `json:"type"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
}

// Parse parses a disk's header: the newer of its two copies that are whole.
func Parse(r io.ReaderAt) (*Header, error) {
	first, err := parseCopy(r, 0)
	if err == nil {
		second, err2 := parseCopy(r, first.Size)
		switch {
		case err2 != nil || second.UUID != first.UUID:
			first.Damaged = "second"
		case second.Sequence > first.Sequence:
			return second, nil
		}
		return first, nil
	}
	// Where the second copy lies, the first would have said; the specification
	// lists the places.
	for at := int64(headerSize); at <= maxHeaderSize; at *= 2 {
		if second, err2 := parseCopy(r, at); err2 == nil {
			second.Damaged = "first"
			return second, nil
		}
	}
	return nil, err
}

func parseCopy(r io.ReaderAt, at int64) (*Header, error) {
	head := make([]byte, binarySize)
	if n, err := r.ReadAt(head, at); n < len(head) {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrHeader, errors.Join(io.ErrUnexpectedEOF, err))
	}
	size, err := sizeField(head)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, at); n < len(b) {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrHeader, errors.Join(io.ErrUnexpectedEOF, err))
	}
	h, text, err := parseBinary(b)
	if err != nil {
		return nil, err
	}
	if h.Offset != uint64(at) || h.Second != (at > 0) {
		return nil, fmt.Errorf("%w: a copy says it lies at %d and lies at %d", ErrHeader, h.Offset, at)
	}
	j, err := parseJSON(text, size)
	if err != nil {
		return nil, err
	}
	return describe(h, j)
}

// describe turns parsed areas into a Header.
func describe(b *binaryHeader, j *jsonArea) (*Header, error) {
	s, ok := j.Segments["0"]
	if !ok || len(j.Segments) != 1 || s.Type != "crypt" {
		return nil, fmt.Errorf("%w: it has no single crypt segment", ErrHeader)
	}
	h := &Header{
		UUID: b.UUID, Label: b.Label, Subsystem: b.Subsystem, Sequence: b.Sequence, Size: int64(b.Size),
		Cipher: s.Encryption, Sector: s.SectorSize, Tokens: len(j.Tokens), area: j,
	}
	h.Offset, _ = number(s.Offset) // checked by parseJSON, as all numbers here
	if s.Integrity != nil {
		h.Integrity = s.Integrity.Type
	}
	if s.Size != "dynamic" {
		h.Payload, _ = number(s.Size)
	}
	for _, name := range sorted(j.Keyslots) {
		k := j.Keyslots[name]
		out := Keyslot{Type: k.Type, KeySize: k.KeySize, Encryption: k.Area.Encryption}
		out.ID, _ = strconv.Atoi(name)
		out.Offset, _ = number(k.Area.Offset)
		out.Size, _ = number(k.Area.Size)
		if k.AF != nil {
			out.Stripes, out.Hash = k.AF.Stripes, k.AF.Hash
		}
		if d := k.KDF; d != nil {
			out.KDF, out.KDFHash, out.Iterations, out.Time, out.Memory, out.CPUs = d.Type, d.Hash, d.Iterations, d.Time, d.Memory, d.CPUs
		}
		h.Keyslots = append(h.Keyslots, out)
	}
	for _, name := range sorted(j.Digests) {
		d := j.Digests[name]
		id, _ := strconv.Atoi(name)
		h.Digests = append(h.Digests, Digest{id, d.Type, d.Hash, d.Iterations, d.Keyslots, d.Segments})
	}
	return h, nil
}

// sorted returns the names of objects in the order of their numbers.
func sorted[T any](objects map[string]T) []string {
	return slices.SortedFunc(maps.Keys(objects), func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return slices.Compare([]byte(a), []byte(b))
	})
}
