package qemu

// ReadinessPort is the name of the virtio-serial port that guest and hostagent
// speak the readiness protocol on.
const ReadinessPort = "org.secexec.readiness.0"

// serial is the virtio-serial bus with the readiness port. Port number 0 is
// reserved for a console.
func serial(c *Config) []string {
	if c.ReadinessSocket == "" {
		return nil
	}
	argv := virtio("virtio-serial-ccw", "serial0", DevnoSerial)
	argv = append(argv, c.listen("readiness", c.ReadinessSocket)...)
	return append(argv, device(object{
		{"driver", "virtserialport"}, {"id", "readiness0"}, {"bus", "serial0.0"}, {"nr", 1},
		{"chardev", "readiness"}, {"name", ReadinessPort},
	})...)
}
