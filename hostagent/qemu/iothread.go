package qemu

import "fmt"

// maxIOThreads is a pool's size that IBM measured KVM guests with, its threads
// given to disks in turn (https://www.ibm.com/docs/en/linux-on-systems?topic=setup-io-threads).
const maxIOThreads = 16

// IOThreads is how many threads beside the main loop serve a guest's disks.
// Without any, QEMU's one main loop serves all disks, under the lock that its
// virtual CPUs' own requests and QMP want too. A guest of one CPU gets none: it
// waits for its disk anyway, and a node with a thousand of them has a thousand
// threads less. Others get one per disk, at most one for two CPUs, which keep
// that many busy.
func IOThreads(cpus int, disks []Disk) int {
	backends, controller := 0, 0
	for _, d := range disks {
		if d.Bus == VirtioSCSI {
			controller = 1 // serves all its disks in one thread
		} else {
			backends++
		}
	}
	return min(backends+controller, cpus/2, maxIOThreads)
}

func ioThreads(c *Config) []string {
	var argv []string
	for i := range IOThreads(c.CPUs, c.Disks) {
		argv = append(argv, "-object", object{{"qom-type", "iothread"}, {"id", ioThread(i)}}.String())
	}
	return argv
}

func ioThread(i int) string { return fmt.Sprintf("io%d", i) }

// onThread gives disk i, or the controller whose first disk i is, one of the
// threads in turn: number i modulo their number.
func onThread(c *Config, i int) object {
	n := IOThreads(c.CPUs, c.Disks)
	if n == 0 {
		return nil
	}
	return object{{"iothread", ioThread(i % n)}}
}
