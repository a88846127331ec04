package luks2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// The JSON area's objects, all fields of the specification. Numbers of 64 bits
// are strings in it.
type jsonArea struct {
	Keyslots map[string]jsonKeyslot     `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]jsonSegment     `json:"segments"`
	Digests  map[string]jsonDigest      `json:"digests"`
	Config   jsonConfig                 `json:"config"`
}

type jsonKeyslot struct {
	Type     string       `json:"type"`
	KeySize  int          `json:"key_size"`
	Priority *int         `json:"priority,omitempty"`
	AF       *jsonAF      `json:"af,omitempty"`
	Area     jsonSlotArea `json:"area"`
	KDF      *jsonKDF     `json:"kdf,omitempty"`
	// Of re-encryption slots, which are shown but not opened.
	Mode      string `json:"mode,omitempty"`
	Direction string `json:"direction,omitempty"`
}

type jsonAF struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type jsonSlotArea struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	Encryption string `json:"encryption,omitempty"`
	KeySize    int    `json:"key_size,omitempty"`
	Hash       string `json:"hash,omitempty"`
	SectorSize int    `json:"sector_size,omitempty"`
	ShiftSize  string `json:"shift_size,omitempty"`
}

type jsonKDF struct {
	Type       string `json:"type"`
	Hash       string `json:"hash,omitempty"`
	Iterations int    `json:"iterations,omitempty"`
	Time       int    `json:"time,omitempty"`
	Memory     int    `json:"memory,omitempty"`
	CPUs       int    `json:"cpus,omitempty"`
	Salt       []byte `json:"salt"`
}

type jsonSegment struct {
	Type       string         `json:"type"`
	Offset     string         `json:"offset"`
	Size       string         `json:"size"`
	IVTweak    string         `json:"iv_tweak,omitempty"`
	Encryption string         `json:"encryption,omitempty"`
	SectorSize int            `json:"sector_size,omitempty"`
	Integrity  *jsonIntegrity `json:"integrity,omitempty"`
	Flags      []string       `json:"flags,omitempty"`
}

type jsonIntegrity struct {
	Type              string `json:"type"`
	JournalEncryption string `json:"journal_encryption"`
	JournalIntegrity  string `json:"journal_integrity"`
	KeySize           int    `json:"key_size,omitempty"` // bytes of the integrity key, where it is not the digest's size
}

type jsonDigest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type jsonConfig struct {
	JSONSize     string          `json:"json_size"`
	KeyslotsSize string          `json:"keyslots_size,omitempty"`
	Flags        []string        `json:"flags,omitempty"`
	Requirements json.RawMessage `json:"requirements,omitempty"`
}

const (
	maxObjects = 32 // of each kind: cryptsetup's own bound
	maxDepth   = 16
)

// parseJSON parses the JSON area of a header of this size. Unknown fields,
// fields that stand twice, and numbers out of bounds are refused.
func parseJSON(text []byte, size uint64) (*jsonArea, error) {
	if err := checkFields(json.NewDecoder(bytes.NewReader(text))); err != nil {
		return nil, fmt.Errorf("%w: JSON area: %w", ErrHeader, err)
	}
	var j jsonArea
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, fmt.Errorf("%w: JSON area: %w", ErrHeader, err)
	}
	if err := j.check(size); err != nil {
		return nil, fmt.Errorf("%w: JSON area: %w", ErrHeader, err)
	}
	return &j, nil
}

// checkFields refuses a field that stands twice, and anything after the object.
func checkFields(d *json.Decoder) error {
	type level struct {
		seen map[string]bool // nil in arrays
		key  bool            // a key comes next
	}
	var stack []level
	for {
		tok, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		if delim, ok := tok.(json.Delim); ok && (delim == '{' || delim == '[') {
			if len(stack) == maxDepth {
				return errors.New("too deep")
			}
			next := level{}
			if delim == '{' {
				next = level{seen: make(map[string]bool), key: true}
			}
			stack = append(stack, next)
			continue
		} else if ok {
			stack = stack[:len(stack)-1]
		} else if n := len(stack); n > 0 && stack[n-1].key {
			name, _ := tok.(string)
			if stack[n-1].seen[name] {
				return fmt.Errorf("field %.40q stands twice", name)
			}
			stack[n-1].seen[name], stack[n-1].key = true, false
			continue
		}
		if len(stack) == 0 {
			break
		}
		stack[len(stack)-1].key = stack[len(stack)-1].seen != nil
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one object")
	}
	return nil
}

func (j *jsonArea) check(size uint64) error {
	if len(j.Keyslots) > maxObjects || len(j.Segments) > maxObjects || len(j.Digests) > maxObjects || len(j.Tokens) > maxObjects {
		return fmt.Errorf("more than %d objects of a kind", maxObjects)
	}
	if n, err := number(j.Config.JSONSize); err != nil || uint64(n) != size-binarySize {
		return fmt.Errorf("json_size %.30q in a header of %d bytes", j.Config.JSONSize, size)
	}
	for name, k := range j.Keyslots {
		if err := k.check(int64(size)); err != nil || !isID(name) {
			return fmt.Errorf("key slot %.20q: %w", name, err)
		}
	}
	for name, s := range j.Segments {
		offset, err := number(s.Offset)
		if err != nil || offset%512 != 0 || !isID(name) {
			return fmt.Errorf("segment %.20q at %.30q", name, s.Offset)
		}
		if n, err := number(s.Size); s.Size != "dynamic" && (err != nil || n == 0 || n%512 != 0 || offset+n < 0) {
			return fmt.Errorf("segment %.20q has size %.30q", name, s.Size)
		}
		if s.Type == "crypt" {
			if ss := s.SectorSize; ss != 512 && ss != 1024 && ss != 2048 && ss != 4096 {
				return fmt.Errorf("segment %.20q has sectors of %d bytes", name, ss)
			}
			if _, err := number(s.IVTweak); err != nil {
				return fmt.Errorf("segment %.20q has iv_tweak %.30q", name, s.IVTweak)
			}
		}
	}
	for name, d := range j.Digests {
		if d.Type != "pbkdf2" || d.Iterations < 1 || d.Iterations > maxIterations || len(d.Salt) > 512 || len(d.Digest) == 0 || len(d.Digest) > 512 || !isID(name) {
			return fmt.Errorf("digest %.20q is no pbkdf2 digest within bounds", name)
		}
	}
	return nil
}

func (k *jsonKeyslot) check(headerSize int64) error {
	offset, err := number(k.Area.Offset)
	if err != nil || offset < 2*headerSize || offset%binarySize != 0 {
		return fmt.Errorf("its area is at %.30q", k.Area.Offset)
	}
	size, err := number(k.Area.Size)
	if err != nil || size == 0 || size > 128<<20 || size%binarySize != 0 {
		return fmt.Errorf("its area has size %.30q", k.Area.Size)
	}
	if k.Type != "luks2" {
		return nil
	}
	if k.KeySize < 1 || k.KeySize > 512 || k.AF == nil || k.KDF == nil || k.AF.Type != "luks1" || k.AF.Stripes != stripes ||
		int64(k.KeySize)*stripes > size || k.Area.KeySize < 1 || k.Area.KeySize > 512 {
		return errors.New("its sizes don't fit")
	}
	if d := k.KDF; d.Iterations < 0 || d.Time < 0 || d.Memory < 0 || d.CPUs < 0 || len(d.Salt) > 512 {
		return errors.New("the costs of its key derivation are out of bounds")
	}
	return nil
}

// isID tells an object's name: a number as cryptsetup writes it.
func isID(s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// number parses a number in a string, in the one form that it has.
func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.30q is no number", s)
	}
	return n, nil
}
