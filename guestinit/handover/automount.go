package handover

import (
	"fmt"
	"os"
	"path/filepath"
)

// generators is where systemd looks first for programs that make units, in a
// folder that is guestinit's until the hand-over (systemd.generator(7)).
const generators = "run/systemd/system-generators"

// gptAuto makes systemd mount whatever partitions the root's disk has by their
// types, and swap to them (systemd-gpt-auto-generator(8)).
const gptAuto = "systemd-gpt-auto-generator"

// MaskAutoMounts keeps a systemd in the root from mounting partitions that the
// host put on the root's disk, at /srv or /home say, and from writing memory to
// a swap partition of the host's. Below is the folder that run lies in, usually
// "/".
func MaskAutoMounts(below string) error {
	dir := filepath.Join(below, generators)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mask %s: %w", gptAuto, err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, gptAuto)); err != nil {
		return fmt.Errorf("mask %s: %w", gptAuto, err)
	}
	return nil
}
