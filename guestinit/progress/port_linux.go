package progress

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/readiness"
)

// Serial is the readiness port. Its descriptor is non-blocking: a write to a
// virtio-serial port waits for ever while nobody on the host reads it.
type Serial struct{ FD int }

// OpenSerial finds the readiness port by name and opens it. A port has one
// opener at a time, so guestagent gets this descriptor.
func OpenSerial() (*Serial, error) {
	fd, err := OpenPort(readiness.PortName)
	if err != nil {
		return nil, err
	}
	return &Serial{fd}, nil
}

// OpenPort finds a virtio-serial port by name and opens it, non-blocking.
func OpenPort(port string) (int, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return -1, fmt.Errorf("find port %s: %w", port, err)
	}
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(name)) != port {
			continue
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(path))
		fd, err := unix.Open(dev, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != nil {
			return -1, fmt.Errorf("open port %s: %w", dev, err)
		}
		return fd, nil
	}
	return -1, fmt.Errorf("find port %s: none of this name", port)
}

// Write implements [Port].
func (s *Serial) Write(line []byte) error {
	_, err := unix.Write(s.FD, line)
	return err
}
