package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// Requests that make a mounted file system larger.
const (
	ext4ResizeFS = 1<<30 | 8<<16 | 'f'<<8 | 16    // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new number of blocks (linux/ext4.h)
	xfsGeometry  = 2<<30 | 112<<16 | 'X'<<8 | 100 // XFS_IOC_FSGEOMETRY_V1 (xfs_fs.h)
	xfsGrowFS    = 1<<30 | 16<<16 | 'X'<<8 | 110  // XFS_IOC_FSGROWFSDATA
)

// xfsGeometryV1 is what is used of struct xfs_fsop_geom_v1.
type xfsGeometryV1 struct {
	blockSize uint32
	_         [6]uint32
	maxInodes uint32 // per cent of the room
	blocks    uint64
	_         [9]uint64
}

// xfsGrowth is struct xfs_growfs_data.
type xfsGrowth struct {
	blocks    uint64
	maxInodes uint32
	_         uint32
}

// mappedSize is how much of a disk or partition a volume takes: what was
// sealed, or all to the end for one that grows. What the host has added is noise
// to whom it is mapped, and is written before it is read.
func mappedSize(v *sealed.Volume, disk uint64) uint64 {
	if !v.Grow {
		return v.Size
	}
	return (disk - v.Offset) / sealed.SectorSize * sealed.SectorSize
}

// grow makes a mounted volume's file system as large as its mapping, where it is to
// grow. One that is as large stays as it is.
func grow(v *sealed.Volume, device, mountPoint string) error {
	if !v.Grow {
		return nil
	}
	size, err := deviceSize(device)
	if err == nil {
		err = resize(v.FSType, size, mountPoint)
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
	return size, request(fd, unix.BLKGETSIZE64, unsafe.Pointer(&size))
}

func resize(fsType string, size uint64, mountPoint string) error {
	fd, err := unix.Open(mountPoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if fsType == "xfs" {
		return resizeXFS(fd, size)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	blocks := size / uint64(fs.Bsize)
	return request(fd, ext4ResizeFS, unsafe.Pointer(&blocks))
}

// resizeXFS takes the share of inodes as it is: xfs sets it anew when it grows.
func resizeXFS(fd int, size uint64) error {
	var now xfsGeometryV1
	if err := request(fd, xfsGeometry, unsafe.Pointer(&now)); err != nil {
		return err
	}
	blocks := size / uint64(max(now.blockSize, 512))
	if blocks <= now.blocks {
		return nil
	}
	return request(fd, xfsGrowFS, unsafe.Pointer(&xfsGrowth{blocks: blocks, maxInodes: now.maxInodes}))
}

func request(fd int, number uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
