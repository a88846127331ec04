package guest

import (
	"encoding/hex"
	"errors"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/placement"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/seimage"
)

// admit refuses an image that this node can't start.
func (f *Fleet) admit(b *bundle.Bundle) error {
	hashes, err := f.Platform.HostKeyHashes()
	if errors.Is(err, platform.ErrHashesUnknown) {
		return nil // firmware decides
	}
	if err != nil {
		return fault.New(fault.Node, "%w", err)
	}
	part := b.Manifest.Image.Part
	file, err := b.OpenPart(part)
	if err != nil {
		return fault.New(fault.Bundle, "%w", err)
	}
	defer file.Close()
	img, err := seimage.Open(file, part.Size)
	if err != nil {
		return fault.New(fault.Bundle, "%w", err)
	}
	var header [][32]byte
	for _, s := range img.Header.Slots {
		header = append(header, s.HostHash)
	}
	var index []placement.Slot
	for _, s := range b.Manifest.KeySlots {
		slot := placement.Slot{Name: s.Subject}
		if _, err := hex.Decode(slot.Hash[:], []byte(s.HostKeyHash)); err != nil {
			return fault.New(fault.Bundle, "%w", err)
		}
		index = append(index, slot)
	}
	err = placement.Check(header, index, hashes)
	switch {
	case errors.Is(err, placement.ErrNoSlot):
		return fault.New(fault.NoSlot, "%w", err)
	case err != nil:
		return fault.New(fault.Bundle, "%w", err)
	}
	return nil
}
