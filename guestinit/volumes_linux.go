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
	if err := mountRoot(record, root); err != nil {
		return err
	}
	if err := grow(&record.Root, root, newRoot); err != nil {
		return err
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
	return grow(&d.Volume, device, newRoot+d.Mount)
}

// unlock maps a volume as sealed and returns the mapping's node. name ends the
// names of the mapping and of its key in the keyring. Of the disk it reads no
// byte but, to find a partition, the table. A fresh volume holds its empty file
// system then.
func unlock(v *sealed.Volume, name string, fail volumeFailures) (string, error) {
	disk, err := waitDisk(v, fail)
	if err != nil {
		return "", err
	}
	if disk.Size < v.Offset+v.Size {
		return "", fail.size
	}
	if v.Fresh {
		if v.Key, err = freshKey(); err != nil {
			return "", failFreshKey.because(err)
		}
	}
	crypt := devmapper.Crypt{
		Cipher: sealed.Cipher, KeySize: len(v.Key), KeyDescription: "secexec:" + name,
		Major: disk.Major, Minor: disk.Minor, Offset: v.Offset, Size: mappedSize(v, disk.Size), SectorSize: sealed.SectorSize,
	}
	if v.Mode == sealed.Integrity {
		if err := overIntegrity(&crypt, v, name, disk); err != nil {
			return "", err
		}
	}
	mapping := "secexec-" + name
	if v.Verity != nil {
		mapping += "-crypt"
	}
	major, minor, err := devmapper.CreateCrypt(mapping, v.ReadOnly, crypt, v.Key)
	if err != nil {
		return "", fail.crypt.because(err)
	}
	v.Key.Wipe()
	if v.Verity != nil {
		if minor, err = verify(v.Verity, "secexec-"+name, major, minor); err != nil {
			return "", err
		}
	}
	device := fmt.Sprintf("/dev/dm-%d", minor)
	if v.Template != "" {
		if err := writeEmpty(v, device); err != nil {
			return "", failEmpty.because(err)
		}
	}
	return device, nil
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
