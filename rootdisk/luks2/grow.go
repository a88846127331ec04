package luks2

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/secexec/secexec/secret"
)

// Storage is a disk whose header is rewritten.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Growable refuses a header whose payload can't just become longer: it has
// tags of dm-integrity, or a copy that is damaged.
func (h *Header) Growable() error {
	switch {
	case h.Damaged != "":
		return fmt.Errorf("%w: its %s copy is damaged: run cryptsetup repair first", ErrHeader, h.Damaged)
	case h.area.Segments["0"].Integrity != nil:
		return fmt.Errorf("%w: its sectors have tags (dm-integrity), whose layout is fixed", ErrUnsupported)
	}
	return nil
}

// SetPayload makes the header say that the payload has size bytes, a multiple
// of its sectors. A header whose payload goes on to the disk's end says so
// already. The copies are written one after the other, so that one is whole
// whatever interrupts it.
func SetPayload(disk Storage, size int64) error {
	h, err := Parse(disk)
	if err != nil {
		return err
	}
	if err := h.Growable(); err != nil {
		return err
	}
	if h.Payload == 0 || h.Payload == size {
		return nil
	}
	if size <= 0 || size%int64(h.Sector) != 0 {
		return fmt.Errorf("%w: payload of %d bytes is no multiple of %d", ErrOptions, size, h.Sector)
	}
	segment := h.area.Segments["0"]
	segment.Size = decimal(size)
	area := *h.area
	area.Segments = map[string]jsonSegment{"0": segment}
	text, err := json.Marshal(area)
	if err != nil {
		return err
	}
	if int64(len(text)) >= h.Size-binarySize {
		return fmt.Errorf("%w: JSON area of %d bytes", ErrOptions, len(text))
	}
	b := binaryHeader{Size: uint64(h.Size), Sequence: h.Sequence + 1, Label: h.Label, UUID: h.UUID, Subsystem: h.Subsystem}
	for _, at := range []int64{h.Size, 0} {
		b.Second, b.Offset = at > 0, uint64(at)
		copy(b.Salt[:], secret.Random(len(b.Salt)))
		if _, err := disk.WriteAt(b.encode(text), at); err != nil {
			return fmt.Errorf("write LUKS2 header: %w", err)
		}
		if err := disk.Sync(); err != nil {
			return fmt.Errorf("write LUKS2 header: %w", err)
		}
	}
	return nil
}
