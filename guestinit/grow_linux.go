package main

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// ext4ResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new number of
// blocks (linux/ext4.h).
const ext4ResizeFS = 1<<30 | 8<<16 | 'f'<<8 | 16

// mappedSize is how much of a disk or partition a volume takes: what was
// sealed, or all to the end for one that grows. What the host has added is noise
// to whom it is mapped, and is written before it is read.
func mappedSize(v *sealed.Volume, disk uint64) uint64 {
	if !v.Grow {
		return v.Size
	}
	return (disk - v.Offset) / sealed.SectorSize * sealed.SectorSize
}

// grow makes a mounted volume's ext4 as large as its mapping, where it is to
// grow. One that is as large stays as it is.
func grow(v *sealed.Volume, device, mountPoint string) error {
	if !v.Grow {
		return nil
	}
	size, err := deviceSize(device)
	if err == nil {
		err = resize(size, mountPoint)
	}
	if err != nil {
		return failGrow.because(fmt.Errorf("grow file system on %s: %w", mountPoint, err))
	}
	return nil
}

// deviceSize is a block device's size in bytes.
func deviceSize(device string) (size uint64, err error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, errno
	}
	return size, nil
}

func resize(size uint64, mountPoint string) error {
	fd, err := unix.Open(mountPoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	var blocks [8]byte
	binary.NativeEndian.PutUint64(blocks[:], size/uint64(fs.Bsize))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks[0]))); errno != 0 {
		return errno
	}
	return nil
}
