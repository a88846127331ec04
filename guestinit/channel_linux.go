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
	// A mount of guestagent's own, in no folder: the root's init can unmount its
	// own at shutdown.
	secrets, err = unix.OpenTree(unix.AT_FDCWD, mounts.SecretsPath, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return port, -1, fmt.Errorf("open folder of secrets: %w", err)
	}
	return port, secrets, nil
}
