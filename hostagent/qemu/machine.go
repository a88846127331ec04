package qemu

import "strconv"

// identity names the process: in ps, in its thread names, and for a restarted
// hostagent that looks for -uuid.
func identity(c *Config) []string {
	return []string{"-name", "guest=" + c.Name + ",debug-threads=on", "-uuid", c.UUID}
}

// defaults takes away all that QEMU would add by itself. With -no-reboot a guest
// that reboots ends QEMU, and hostagent starts a fresh one through the same
// checks; the switch into secure mode is no reboot in this sense.
func defaults(c *Config) []string {
	argv := []string{"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-msg", "timestamp=on"}
	if c.Stopped {
		argv = append(argv, "-S")
	}
	return argv
}

// machine keeps guest memory out of QEMU's core dumps. Its memory is the
// object that memory makes.
func machine(c *Config) []string {
	m := "s390-ccw-virtio,usb=off,dump-guest-core=off,memory-backend=ram"
	if c.Confidential {
		m += ",confidential-guest-support=lsec0"
	}
	if c.Loadparm != "" {
		m += ",loadparm=" + c.Loadparm
	}
	return []string{"-machine", m, "-accel", c.Accel, "-cpu", c.CPU}
}

// memory is ordinary memory: no huge pages, which SE refuses, no locking, and no
// merging of equal pages, which would tell neighbours what a guest holds. With a
// file it is shared, so that the emulated ultravisor can map it.
func memory(c *Config) []string {
	size := int64(c.MemoryMiB) << 20
	o := object{{"qom-type", "memory-backend-ram"}, {"id", "ram"}, {"size", size}, {"dump", false}, {"merge", false}}
	if c.MemoryFile != "" {
		o = object{
			{"qom-type", "memory-backend-file"}, {"id", "ram"}, {"size", size}, {"dump", false}, {"merge", false},
			{"mem-path", c.inode(c.MemoryFile)}, {"share", true},
		}
	}
	return []string{"-m", strconv.Itoa(c.MemoryMiB), "-object", o.String(), "-overcommit", "mem-lock=off"}
}

func processors(c *Config) []string { return []string{"-smp", strconv.Itoa(c.CPUs)} }

// kernel loads the SE boot image at address 0. There is no -initrd and no
// -append: both are inside the image. Without an image QEMU runs its firmware,
// which boots the disk with a bootindex; see disks.
func kernel(c *Config) []string {
	if c.BootDisk {
		return nil
	}
	return []string{"-kernel", c.inode(c.Kernel)}
}

// confidential is the object that makes the machine able to turn secure.
func confidential(c *Config) []string {
	if !c.Confidential {
		return nil
	}
	return []string{"-object", object{{"qom-type", "s390-pv-guest"}, {"id", "lsec0"}}.String()}
}

func sandbox(c *Config) []string {
	if !c.Sandbox {
		return nil
	}
	return sandboxArgs()
}
