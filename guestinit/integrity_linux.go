package main

import (
	"errors"

	"github.com/secexec/secexec/guestinit/devmapper"
	"github.com/secexec/secexec/sealed"
)

// overIntegrity puts a dm-integrity device between the disk and dm-crypt. The
// kernel lays it out as the superblock on the disk says, so what it made of that
// must be what was sealed; and whatever it makes of journal and tags, dm-crypt
// gives out no sector that was not encrypted with the key for its place.
func overIntegrity(crypt *devmapper.Crypt, v *sealed.Volume, name string) error {
	l := v.Integrity
	major, minor, err := devmapper.Create("secexec-"+name+"-tags", v.ReadOnly, devmapper.Integrity{
		Major: crypt.Major, Minor: crypt.Minor, Offset: v.Offset, Provided: l.Provided,
		TagSize: sealed.TagSize, JournalSectors: l.JournalSectors, InterleaveSectors: l.InterleaveSectors, SectorSize: sealed.SectorSize,
	})
	switch {
	case errors.Is(err, devmapper.ErrDiffers):
		return failForged.because(err)
	case err != nil:
		return failIntegrity.because(err)
	}
	crypt.Cipher, crypt.TagSize = sealed.IntegrityCipher, sealed.TagSize
	crypt.Major, crypt.Minor, crypt.Offset, crypt.Size = major, minor, 0, l.Provided
	return nil
}
