package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/secexec/secexec/guestinit/blockdev"
	"github.com/secexec/secexec/guestinit/devmapper"
	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/sealed"
)

// volumeFailures are what can go wrong with a volume.
type volumeFailures struct{ none, several, size, crypt failure }

var (
	rootFailures = volumeFailures{failNoDisk, failTwoDisks, failDiskSize, failCrypt}
	dataFailures = volumeFailures{failNoData, failTwoData, failDataSize, failDataCrypt}
)

// mountVolumes mounts the root and what belongs in it.
func mountVolumes(record *sealed.Record, root string) error {
	if err := mounts.Root(root, newRoot, record.Root.FSType, record.Root.ReadOnly); err != nil {
		return failRoot.because(err)
	}
	for i := range record.Data {
		if err := mountData(&record.Data[i], i); err != nil {
			return err
		}
	}
	return nil
}

// mountData maps a data volume and mounts it in the root, which no init of the
// root's runs in yet.
func mountData(d *sealed.DataVolume, number int) error {
	device, err := unlock(&d.Volume, fmt.Sprintf("data%d", number), dataFailures)
	if err != nil {
		return err
	}
	err = mounts.Data(device, newRoot, d.Mount, d.FSType, d.ReadOnly)
	if errors.Is(err, mounts.ErrMountPoint) {
		return failDataMount.because(err)
	} else if err != nil {
		return failData.because(err)
	}
	return nil
}

// unlock maps a volume as sealed and returns the mapping's node. name ends the
// names of the mapping and of its key in the keyring. Of the disk it reads no
// byte but, to find a partition, the table.
func unlock(v *sealed.Volume, name string, fail volumeFailures) (string, error) {
	disk, err := waitDisk(v, fail)
	if err != nil {
		return "", err
	}
	if disk.Size < v.Offset+v.Size {
		return "", fail.size
	}
	crypt := devmapper.Crypt{
		Cipher: sealed.Cipher, KeySize: len(v.Key), KeyDescription: "secexec:" + name,
		Major: disk.Major, Minor: disk.Minor, Offset: v.Offset, Size: v.Size, SectorSize: sealed.SectorSize,
	}
	if v.Mode == sealed.Integrity {
		if err := overIntegrity(&crypt, v, name, disk); err != nil {
			return "", err
		}
	}
	_, minor, err := devmapper.CreateCrypt("secexec-"+name, v.ReadOnly, crypt, v.Key)
	if err != nil {
		return "", fail.crypt.because(err)
	}
	v.Key.Wipe()
	return fmt.Sprintf("/dev/dm-%d", minor), nil
}

// waitDisk waits for a volume's disk or partition, at most diskDeadline.
func waitDisk(v *sealed.Volume, fail volumeFailures) (disk *blockdev.Disk, err error) {
	deadline := time.Now().Add(diskDeadline)
	for {
		if v.Serial != "" {
			disk, err = blockdev.FindSerial(os.DirFS("/sys/block"), v.Serial)
		} else {
			disk, err = blockdev.FindPartition(os.DirFS("/sys/block"), os.DirFS("/dev"), v.PartUUID)
		}
		switch {
		case err == nil:
			return disk, nil
		case errors.Is(err, blockdev.ErrAmbiguous):
			return nil, fail.several.because(err)
		case time.Now().After(deadline):
			return nil, fail.none.because(err)
		}
		time.Sleep(pollEvery)
	}
}
