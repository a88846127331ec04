package qemu

// network is the one virtio-net device. A tap interface exists before QEMU
// does; QEMU runs no script and needs no right to make one.
func network(c *Config) []string {
	if c.Net == nil {
		return nil
	}
	backend := object{{"type", "user"}, {"id", "net0-backend"}}
	if c.Net.Tap != "" {
		backend = object{
			{"type", "tap"}, {"id", "net0-backend"}, {"ifname", c.Net.Tap},
			{"script", "no"}, {"downscript", "no"}, {"vhost", false},
		}
	}
	return append([]string{"-netdev", backend.String()},
		virtio("virtio-net-ccw", "net0", devnoNet, member{"netdev", "net0-backend"}, member{"mac", c.Net.MAC})...)
}
