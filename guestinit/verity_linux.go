package main

import (
	"github.com/secexec/secexec/guestinit/devmapper"
	"github.com/secexec/secexec/sealed"
)

// verify maps what of an unlocked volume the sealed root hash vouches for, and
// returns the mapping's minor number. Major and minor are the volume's dm-crypt
// device, which holds data and hash tree.
func verify(t *sealed.VerityTree, name string, major, minor uint32) (uint32, error) {
	_, minor, err := devmapper.Create(name, true, devmapper.Verity{
		Major: major, Minor: minor, DataSize: t.DataSize, HashOffset: t.HashOffset, BlockSize: sealed.SectorSize,
		RootHash: t.RootHash, Salt: t.Salt,
	})
	if err != nil {
		return 0, failVerity.because(err)
	}
	return minor, nil
}
