package main

import (
	"errors"
	"os"
	"path"

	"github.com/secexec/secexec/guestinit/blockdev"
	"github.com/secexec/secexec/guestinit/devmapper"
	"github.com/secexec/secexec/sealed"
)

// overIntegrity puts a dm-integrity device between the disk and dm-crypt. The
// kernel lays it out as the superblock on the disk says, so that and what the
// kernel made of it must be what was sealed; and whatever it makes of journal
// and tags, dm-crypt gives out no sector that was not encrypted with the key for
// its place.
func overIntegrity(crypt *devmapper.Crypt, v *sealed.Volume, name string, disk *blockdev.Disk) error {
	l := v.Integrity
	tags := devmapper.Integrity{
		Major: disk.Major, Minor: disk.Minor, Offset: v.Offset, Provided: l.Provided,
		TagSize: sealed.TagSize, JournalSectors: l.JournalSectors, InterleaveSectors: l.InterleaveSectors, SectorSize: sealed.SectorSize,
	}
	b, err := readSuperblock("/dev/"+path.Base(disk.Name), int64(v.Offset))
	if err != nil {
		return failIntegrity.because(err)
	}
	if err := tags.CheckSuperblock(b); err != nil {
		return failForged.because(err)
	}
	major, minor, err := devmapper.Create("secexec-"+name+"-tags", v.ReadOnly, tags)
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

func readSuperblock(node string, at int64) ([]byte, error) {
	f, err := os.Open(node)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, devmapper.SuperblockSize)
	_, err = f.ReadAt(b, at)
	return b, err
}
