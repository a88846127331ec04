package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// maxData is what the kernel takes of a mount's data: a page less its NUL.
const maxData = 4095

// mountFlags are a mount's options that are flags to the kernel; a "no" or such
// takes one away again.
var mountFlags = map[string]struct {
	clear bool
	flag  uintptr
}{
	"async": {true, unix.MS_SYNCHRONOUS}, "atime": {true, unix.MS_NOATIME}, "bind": {false, unix.MS_BIND},
	"defaults": {}, "dev": {true, unix.MS_NODEV}, "diratime": {true, unix.MS_NODIRATIME}, "dirsync": {false, unix.MS_DIRSYNC},
	"exec": {true, unix.MS_NOEXEC}, "noatime": {false, unix.MS_NOATIME}, "nodev": {false, unix.MS_NODEV},
	"nodiratime": {false, unix.MS_NODIRATIME}, "noexec": {false, unix.MS_NOEXEC}, "norelatime": {true, unix.MS_RELATIME},
	"nostrictatime": {true, unix.MS_STRICTATIME}, "nosuid": {false, unix.MS_NOSUID}, "rbind": {false, unix.MS_BIND | unix.MS_REC},
	"relatime": {false, unix.MS_RELATIME}, "remount": {false, unix.MS_REMOUNT}, "ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"strictatime": {false, unix.MS_STRICTATIME}, "suid": {true, unix.MS_NOSUID}, "sync": {false, unix.MS_SYNCHRONOUS},
}

// parseOptions parts a mount's options into flags and data.
func parseOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, o := range options {
		switch f, known := mountFlags[o]; {
		case !known:
			rest = append(rest, o)
		case f.clear:
			flags &^= f.flag
		default:
			flags |= f.flag
		}
	}
	return flags, strings.Join(rest, ",")
}

// unpacked is the folder with an image's one layer as the snapshotter unpacked it,
// where the mount over it would show just that: of the overlayfs snapshotter, and
// of the native one. hostagent then takes the bundle from there without a mount,
// and its file system may share the blocks, which it does not through an overlay.
func unpacked(mounts []*types.Mount) (folder string, ok bool) {
	if len(mounts) != 1 {
		return "", false
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		folder = m.Source
	case "overlay":
		for _, o := range m.Options {
			if dir, is := strings.CutPrefix(o, "lowerdir="); is {
				folder = dir
			} else if dir, is := strings.CutPrefix(o, "upperdir="); is {
				if above, err := os.ReadDir(dir); err != nil || len(above) > 0 {
					return "", false // something was written over the layer
				}
			}
		}
	}
	return folder, filepath.IsAbs(folder) && !strings.ContainsAny(folder, `:\`) // one layer, and no name that is written otherwise
}

// mountAll mounts a task's root file system. Without mounts it is in the folder
// already. It is only read: hostagent copies what is in it.
func mountAll(mounts []*types.Mount, folder string) (unmount func(), err error) {
	done := 0
	unmount = func() {
		for ; done > 0; done-- {
			_ = unix.Unmount(folder, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	if err := os.Mkdir(folder, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return unmount, fmt.Errorf("mount root file system: %w", err)
	}
	for _, m := range mounts {
		flags, data := parseOptions(m.Options)
		if len(data) > maxData {
			return unmount, fmt.Errorf("mount root file system: %s has options of more than %d bytes: a sealed image has one layer", m.Type, maxData)
		}
		if err := unix.Mount(m.Source, folder, m.Type, flags, data); err != nil {
			return unmount, fmt.Errorf("mount root file system: %s on %s: %w", m.Type, folder, err)
		}
		done++
	}
	return unmount, nil
}
