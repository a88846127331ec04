package hardening

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/secret"
)

// reseed is RNDRESEEDCRNG, linux/random.h: _IO('R', 7).
const reseed = 'R'<<8 | 7

// ErrNoEntropy says that the kernel's random pool did not fill in time.
var ErrNoEntropy = errors.New("random pool is not ready")

// SeedRandom mixes the sealed seed into the kernel's random pool, waits until the
// pool is ready, and makes the generator take from the pool anew.
//
// The seed counts for nothing towards readiness (it is written, not added by
// RNDADDENTROPY): the host can't know it, but every boot of an image mixes in the
// same one, and a pool that it alone made ready would give two boots the same
// keys. Readiness comes from the CPU (TRNG, CPACF's, which a machine with Secure
// Execution always has, and of which the kernel takes more at each reseed) or,
// without, from the jitter of its timer. Nothing that the host hands over counts:
// the driver of virtio-rng is not in the initrd.
//
// The seed stays its owner's to wipe.
func SeedRandom(seed secret.Bytes, patience time.Duration) error {
	pool, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open random pool: %w", err)
	}
	defer pool.Close()
	if _, err := pool.Write(seed); err != nil {
		return fmt.Errorf("mix seed into random pool: %w", err)
	}
	// Blocking: only then the kernel gathers jitter. A thread that waits for ever
	// ends with the guest.
	ready := make(chan error, 1)
	go func() {
		_, err := unix.Getrandom(make([]byte, 1), 0)
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-time.After(patience):
		err = ErrNoEntropy
	}
	if err == nil {
		err = unix.IoctlSetInt(int(pool.Fd()), reseed, 0)
	}
	if err != nil {
		return fmt.Errorf("wait for random pool: %w", err)
	}
	return nil
}
