package luks2

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// memory is a disk whose power fails after some writes and flushes.
type memory struct {
	b    []byte
	left int
}

var errPower = errors.New("power failed")

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(b, at)
}

// WriteAt leaves half of what it was to write when the power fails.
func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if m.left--; m.left < 0 {
		copy(m.b[at:], b[:len(b)/2])
		return len(b) / 2, errPower
	}
	return copy(m.b[at:], b), nil
}

func (m *memory) Sync() error {
	if m.left--; m.left < 0 {
		return errPower
	}
	return nil
}

func header(t *testing.T) *memory {
	t.Helper()
	m := &memory{b: make([]byte, PayloadOffset), left: 100}
	l := Layout{ID: [16]byte{1}, Label: "data", Size: 1 << 20}
	slot := Slot{Passphrase: bytes.Repeat([]byte{7}, 64), KDF: RandomKey}
	if err := Write(m, l, bytes.Repeat([]byte{9}, KeySize), slot); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSetPayload(t *testing.T) {
	t.Parallel()
	m := header(t)
	if err := SetPayload(m, 5<<20); err != nil {
		t.Fatal(err)
	}
	h, err := Parse(m)
	if err != nil || h.Payload != 5<<20 || h.Sequence != 2 || h.Damaged != "" || h.Label != "data" {
		t.Fatalf("%v %+v", err, h)
	}
	if err := h.CheckKey(bytes.Repeat([]byte{9}, KeySize)); err != nil {
		t.Error(err)
	}
	if key, err := h.Unlock(m, bytes.Repeat([]byte{7}, 64)); err != nil || !bytes.Equal(key, bytes.Repeat([]byte{9}, KeySize)) {
		t.Errorf("the key slot does not open any more: %v", err)
	}
	before := bytes.Clone(m.b)
	for _, size := range []int64{5<<20 + 512, -4096} {
		if err := SetPayload(m, size); !errors.Is(err, ErrOptions) {
			t.Errorf("%d: %v", size, err)
		}
	}
	if err := SetPayload(m, 5<<20); err != nil || !bytes.Equal(m.b, before) {
		t.Errorf("the same size changes the header: %v", err)
	}
	clear(m.b[headerSize : headerSize+4096])
	if err := SetPayload(m, 6<<20); !errors.Is(err, ErrHeader) {
		t.Errorf("a damaged copy: %v", err)
	}
}

// Whenever the power fails one copy is whole and says the one size or the other.
func TestSetPayloadInterrupted(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		m := header(t)
		m.left = n
		if err := SetPayload(m, 5<<20); !errors.Is(err, errPower) {
			t.Fatalf("after %d: %v", n, err)
		}
		h, err := Parse(io.NewSectionReader(m, 0, PayloadOffset))
		if err != nil || h.Payload != 1<<20 && h.Payload != 5<<20 {
			t.Errorf("after %d: %v %+v", n, err, h)
		}
	}
}
