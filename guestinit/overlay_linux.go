package main

import (
	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/sealed"
)

// Where the parts of a root with a writable layer are mounted until they are
// one.
const (
	lowerDir = "/lower"
	layerDir = "/layer"
)

// mountRoot mounts the root, under a writable layer where the record wants one.
func mountRoot(record *sealed.Record, device string) error {
	at := newRoot
	if record.Overlay != nil {
		at = lowerDir
	}
	if err := mounts.Root(device, at, record.Root.FSType, record.Root.ReadOnly); err != nil {
		return failRoot.because(err)
	}
	if record.Overlay == nil {
		return nil
	}
	if err := mountLayer(record.Overlay); err != nil {
		return err
	}
	if err := mounts.Overlay(lowerDir, layerDir, newRoot); err != nil {
		return failOverlay.because(err)
	}
	return nil
}

// mountLayer mounts what a writable layer is kept on.
func mountLayer(o *sealed.Overlay) error {
	if o.Volume == nil {
		if err := mounts.Memory(layerDir, o.MemoryMiB); err != nil {
			return failOverlay.because(err)
		}
		return nil
	}
	device, err := unlock(o.Volume, "overlay", dataFailures)
	if err != nil {
		return err
	}
	if err := mounts.Root(device, layerDir, o.Volume.FSType, false); err != nil {
		return failData.because(err)
	}
	return nil
}
