package qemu

import (
	"fmt"

	"github.com/secexec/secexec/peer"
)

// PeerPID is the number of the process that serves the QMP socket, by
// SO_PEERCRED: whoever adopts a QEMU compares it with the process it adopted.
func (m *Monitor) PeerPID() (int, error) {
	who, err := peer.Of(m.conn)
	if err != nil {
		return 0, fmt.Errorf("find QMP's server: %w", err)
	}
	return int(who.Pid), nil
}
