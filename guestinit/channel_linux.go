package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/guestinit/progress"
)

// channelPort is the virtio-serial port of the owner's channel: package channel
// of proto, which brings TLS, and PID 1 has none.
const channelPort = "org.secexec.channel.0"

// openChannel opens what guestagent serves the owner by: the channel's port, -1
// where the host gives none (it can always cut the channel), and the folder of
// secrets.
func openChannel() (port, secrets int, err error) {
	if port, err = progress.OpenPort(channelPort); err != nil {
		port = -1
	}
	secrets, err = unix.Open(mounts.SecretsPath, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return port, -1, fmt.Errorf("open folder of secrets: %w", err)
	}
	return port, secrets, nil
}
