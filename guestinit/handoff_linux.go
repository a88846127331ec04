package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/secret"
)

// sendHandoff sends guestagent a file without a name that holds the handoff, in
// one packet. A packet with the bytes themselves would leave them behind in the
// kernel's socket buffer, which is freed without being wiped; the file's memory
// is wiped by guestagent. The socket holds the file until guestagent takes it.
func sendHandoff(socket int, raw secret.Bytes) error {
	file, err := unix.Open("/run", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make handoff: %w", err)
	}
	defer unix.Close(file)
	if n, err := unix.Write(file, raw); n != len(raw) {
		return fmt.Errorf("write handoff: %d of %d bytes, %w", n, len(raw), err)
	}
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(file), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell guestagent: %w", err)
	}
	return nil
}
