package readiness

// Failures are the sentences of guestinit's failure codes: the whole vocabulary
// in which a sealed guest says why it stopped. docs/errors.md explains each.
var Failures = map[string]string{
	"G101": "the kernel's file systems can't be mounted",
	"G102": "the sealed record is missing or invalid",
	"G103": "a kernel module can't be loaded",
	"G104": "no disk has the root's serial number",
	"G105": "several disks have the root's serial number",
	"G106": "the root disk is smaller than what was sealed",
	"G107": "the root disk can't be mapped",
	"G108": "the root disk does not hold what was sealed",
	"G109": "the root has no such init program",
	"G110": "guestagent can't be started",
	"G111": "the hand-over to the root failed",
	"G112": "guestinit failed inside",
	"G113": "the boot took too long",
}
