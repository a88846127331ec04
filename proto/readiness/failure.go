package readiness

// Failures are the sentences of guestinit's failure codes: the whole vocabulary
// in which a sealed guest says why it stopped. docs/errors.md explains each.
var Failures = map[string]string{
	"G101": "the kernel's file systems can't be mounted",
	"G102": "the sealed record is missing or invalid",
	"G103": "a kernel module can't be loaded",
	"G104": "no disk or partition is the root's",
	"G105": "several disks or partitions are the root's",
	"G106": "the root disk is smaller than what was sealed",
	"G107": "the root disk can't be mapped",
	"G108": "the root disk does not hold what was sealed",
	"G109": "the root has no such init program",
	"G110": "guestagent can't be started",
	"G111": "the hand-over to the root failed",
	"G112": "guestinit failed inside",
	"G113": "the boot took too long",
	"G114": "no disk or partition is a data volume's",
	"G115": "several disks or partitions are a data volume's",
	"G116": "a data volume is smaller than what was sealed",
	"G117": "a data volume can't be mapped",
	"G118": "a data volume does not hold what was sealed",
	"G119": "a data volume's mount point is no folder of the root",
	"G120": "a disk with integrity can't be mapped",
	"G121": "a disk's integrity is laid out otherwise than was sealed",
	"G125": "a volume can't be verified by its hash tree",
	"G126": "the writable layer over the root can't be made",
	"G130": "a volume's fresh key can't be made",
	"G131": "a fresh volume's empty file system can't be written",
	"G132": "the swap space can't be used",
	"G133": "a file system can't be grown",

	"G135": "a kernel parameter can't be set",
	"G136": "the kernel's random pool does not fill",
	"G137": "the kernel can't be locked as sealed",

	"G140": "the root has no such program",
	"G141": "what the workload runs in can't be set up",
	"G142": "the workload's program can't be started",

	"G150": "the guest has no network interface",
	"G151": "the guest has several network interfaces",
	"G152": "the network can't be set up",
	"G153": "no DHCP server gave an address in time",
	"G154": "the root has no place for the network's files",

	"G155": "the folder for delivered secrets can't be mounted",

	"G156": "the host did not describe the network in time",
	"G157": "the host's description of the network is refused",

	"G160": "the workload's notification socket can't be made",
}
