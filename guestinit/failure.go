package main

import "fmt"

// failure is why guestinit gives up: a stable code, a sentence from this fixed
// vocabulary, and a cause that stays in the guest. docs/errors.md explains each.
type failure struct {
	code, sentence string
}

func (f *failure) Error() string { return f.code + ": " + f.sentence }

var (
	failMounts   = &failure{"G101", "the kernel's file systems can't be mounted"}
	failRecord   = &failure{"G102", "the sealed record is missing or invalid"}
	failModule   = &failure{"G103", "a kernel module can't be loaded"}
	failNoDisk   = &failure{"G104", "no disk has the root's serial number"}
	failTwoDisks = &failure{"G105", "several disks have the root's serial number"}
	failDiskSize = &failure{"G106", "the root disk is smaller than what was sealed"}
	failCrypt    = &failure{"G107", "the root disk can't be mapped"}
	failRoot     = &failure{"G108", "the root disk does not hold what was sealed"}
	failInit     = &failure{"G109", "the root has no such init program"}
	failAgent    = &failure{"G110", "guestagent can't be started"}
	failHandover = &failure{"G111", "the hand-over to the root failed"}
	failInternal = &failure{"G112", "guestinit failed inside"}
	failTooSlow  = &failure{"G113", "the boot took too long"}
	allFailures  = []*failure{failMounts, failRecord, failModule, failNoDisk, failTwoDisks, failDiskSize, failCrypt, failRoot, failInit, failAgent, failHandover, failInternal, failTooSlow}
)

// because joins a failure with its cause, for tests; the cause is never shown.
func (f *failure) because(err error) error { return fmt.Errorf("%w: %w", f, err) }
