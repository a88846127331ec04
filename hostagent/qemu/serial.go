package qemu

import (
	"fmt"

	"github.com/secexec/secexec/proto/network"
)

// ReadinessPort is the name of the virtio-serial port that guest and hostagent
// speak the readiness protocol on.
const ReadinessPort = "org.secexec.readiness.0"

// ChannelPort is the name of the virtio-serial port of the owner's channel.
const ChannelPort = "org.secexec.channel.0"

// serial is the virtio-serial bus with the readiness port, the channel's, and the
// one that the guest reads its network's description from. Port number 0 is
// reserved for a console.
func serial(c *Config) []string {
	if c.ReadinessSocket == "" {
		return nil
	}
	argv := virtio("virtio-serial-ccw", "serial0", DevnoSerial)
	if c.letter != 0 {
		argv = append(argv, "-chardev", fmt.Sprintf("socket,id=network,fd=%d", c.letter))
		argv = append(argv, device(object{
			{"driver", "virtserialport"}, {"id", "network0"}, {"bus", "serial0.0"}, {"nr", 3},
			{"chardev", "network"}, {"name", network.Port},
		})...)
	}
	argv = append(argv, c.listen("readiness", c.ReadinessSocket)...)
	argv = append(argv, device(object{
		{"driver", "virtserialport"}, {"id", "readiness0"}, {"bus", "serial0.0"}, {"nr", 1},
		{"chardev", "readiness"}, {"name", ReadinessPort},
	})...)
	if c.ChannelSocket == "" {
		return argv
	}
	argv = append(argv, c.listen("channel", c.ChannelSocket)...)
	return append(argv, device(object{
		{"driver", "virtserialport"}, {"id", "channel0"}, {"bus", "serial0.0"}, {"nr", 2},
		{"chardev", "channel"}, {"name", ChannelPort},
	})...)
}
