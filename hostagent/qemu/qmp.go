package qemu

// monitor serves QMP on a unix socket.
func monitor(c *Config) []string {
	return append(c.listen("qmp", c.QMPSocket), "-mon", "chardev=qmp,mode=control")
}

// debugger serves the gdb stub, by which the emulated ultravisor takes part.
func debugger(c *Config) []string {
	if c.GDBSocket == "" {
		return nil
	}
	return append(c.listen("gdb", c.GDBSocket), "-gdb", "chardev:gdb")
}
