package pod

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Locate gives a request's disks the names that the node has for their devices.
// Read knows devices by number alone, and hands them on by udev's links: not every
// node has those, nor may every hostagent follow them.
func Locate(disks []*hostagentv1.Disk) error {
	for _, d := range disks {
		f, err := os.Open(filepath.Join("/sys/dev/block", filepath.Base(d.Path), "uevent"))
		if err != nil {
			return fmt.Errorf("find the device of disk %s: %w", d.Serial, err)
		}
		name, err := deviceName(io.LimitReader(f, 64<<10))
		f.Close()
		if err != nil {
			return fmt.Errorf("find the device of disk %s: %w", d.Serial, err)
		}
		d.Path = "/dev/" + name
	}
	return nil
}

// deviceName reads the kernel's description of a device.
func deviceName(uevent io.Reader) (string, error) {
	for lines := bufio.NewScanner(uevent); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "DEVNAME="); ok && name != "" {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: the kernel has no name for it", os.ErrNotExist)
}
