package guest

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/placement"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/seimage"
)

// admit refuses a bundle whose guest this node could never start.
func (f *Fleet) admit(b *bundle.Bundle, rec *store.Guest) error {
	limits, err := f.Platform.Limits()
	if err != nil {
		return fault.New(fault.Node, "%w", err)
	}
	if err := f.fits(rec, limits); err != nil {
		return err
	}
	part := b.Manifest.Image.Part
	file, err := b.OpenPart(part)
	if err != nil {
		return bundleFault(err)
	}
	defer file.Close()
	var index []placement.Slot
	for _, s := range b.Manifest.KeySlots {
		slot := placement.Slot{Name: s.Subject}
		if _, err := hex.Decode(slot.Hash[:], []byte(s.HostKeyHash)); err != nil {
			return fault.New(fault.Bundle, "%w", err)
		}
		index = append(index, slot)
	}
	return f.admitImage(file, part.Size, limits, index)
}

// admitAgain is admit for a guest's own copy, before each start: the node's keys
// may have changed, or the state folder's node. It reads the image's records and
// not its content: the ultravisor checks every page, and says so with H209. A
// bootable disk belongs to the guest, which may have put another image on it
// since: firmware decides.
func (f *Fleet) admitAgain(rec *store.Guest, limits platform.Limits) error {
	if rec.Boot == bundle.BootDisk {
		return nil
	}
	path := filepath.Join(f.Store.Dir(rec.Name), rec.Image)
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // QEMU says which file
	} else if err != nil {
		return fault.New(fault.Storage, "start guest %s: %w", rec.Name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fault.New(fault.Storage, "start guest %s: %w", rec.Name, err)
	}
	return f.admitImage(file, info.Size(), limits, nil)
}

// admitImage refuses an image that this node's ultravisor would refuse. A nil
// index names nobody: the header's own hashes stand for the hosts.
func (f *Fleet) admitImage(file *os.File, size int64, limits platform.Limits, index []placement.Slot) error {
	hashes, err := f.Platform.HostKeyHashes()
	known := err == nil
	if err != nil && !errors.Is(err, platform.ErrHashesUnknown) {
		return fault.New(fault.Node, "%w", err)
	}
	if !known && limits == (platform.Limits{}) {
		return nil // firmware decides
	}
	img, err := seimage.Open(file, size)
	if err != nil {
		return fault.New(fault.Bundle, "%w", err)
	}
	switch version, flags := limits.Has(seimage.HeaderVersion, uint64(img.Header.PCF)); {
	case !version:
		return fault.New(fault.ImageKind, "the image has an SE header of version 0x%x, which this node's ultravisor does not take", seimage.HeaderVersion)
	case !flags:
		return fault.New(fault.ImageKind, "the image has control flags that this node's ultravisor does not take: %s", img.Header.PCF&^seimage.Flags(limits.HeaderFlags))
	case !known:
		return nil
	}
	var header [][32]byte
	nameless := index == nil
	for _, s := range img.Header.Slots {
		header = append(header, s.HostHash)
		if nameless {
			index = append(index, placement.Slot{Hash: s.HostHash})
		}
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
