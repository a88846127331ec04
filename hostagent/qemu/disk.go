package qemu

import "fmt"

// scsi is the virtio-scsi controller, there if a disk wants it.
func scsi(c *Config) []string {
	for _, d := range c.Disks {
		if d.Bus == VirtioSCSI {
			return virtio("virtio-scsi-ccw", "scsi0", devnoSCSI)
		}
	}
	return nil
}

// disks attaches each disk as a raw image in a file. QEMU's image lock stays
// on: two QEMUs that write one image would destroy its file system.
func disks(c *Config) []string {
	var argv []string
	for i, d := range c.Disks {
		id := fmt.Sprintf("disk%d", i)
		node := id + "-file"
		argv = append(argv, "-blockdev", object{
			{"driver", "file"}, {"node-name", node}, {"filename", c.file(d.Path)},
			{"read-only", d.ReadOnly}, {"locking", "on"},
			{"cache", object{{"direct", d.Cache == Direct}, {"no-flush", false}}},
		}.String())
		var boot object
		if i == 0 && c.BootDisk {
			boot = object{{"bootindex", 1}}
		}
		if d.Bus == VirtioSCSI {
			// The controller is the virtio device; the disk on it has no
			// iommu_platform of its own.
			argv = append(argv, device(append(object{
				{"driver", "scsi-hd"}, {"id", id}, {"bus", "scsi0.0"}, {"channel", 0}, {"scsi-id", i}, {"lun", 0},
				{"drive", node}, {"serial", d.Serial}, {"device_id", d.Serial}, {"write-cache", "on"},
			}, boot...))...)
			continue
		}
		argv = append(argv, virtio("virtio-blk-ccw", id, devnoDisks+i, append(object{
			{"drive", node}, {"serial", d.Serial}, {"write-cache", "on"},
		}, boot...)...)...)
	}
	return argv
}
