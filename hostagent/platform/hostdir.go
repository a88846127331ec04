package platform

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/secret"
)

// maxKeyFile bounds the host's private key in PEM form: a P-521 key needs 365
// bytes.
const maxKeyFile = 8 << 10

// readKey reads the emulated host's private key, in PEM form. Only the stand-in
// process calls it; the caller wipes the key.
func readKey(dir string) (secret.Bytes, error) {
	path := filepath.Join(dir, hostKeyFile)
	if err := checkKeyFile(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	defer f.Close()
	// One buffer from the start: a growing one would leave copies behind.
	key := make(secret.Bytes, maxKeyFile+1)
	n, err := io.ReadFull(f, key)
	if err == nil {
		key.Wipe()
		return nil, fmt.Errorf("read host key: %s has more than %d bytes", path, maxKeyFile)
	}
	if err != io.ErrUnexpectedEOF {
		key.Wipe()
		return nil, fmt.Errorf("read host key %s: %w", path, err)
	}
	return key[:n], nil
}
