package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
)

// qemu: the program, and what it can do with this machine's KVM.
func (r *report) qemu(ctx context.Context) {
	accel := "kvm"
	if r.o.Emulated {
		accel = "tcg"
	}
	c, err := r.m.QEMU(ctx, r.o.QEMU, accel)
	switch {
	case errors.Is(err, qemu.ErrMissing):
		r.fail("qemu", "there is no QEMU program "+r.o.QEMU, "install QEMU for s390x (Debian: qemu-system-misc; Fedora, RHEL: qemu-kvm; SUSE, Ubuntu: qemu-system-s390x), or name it by qemu: in hostagent.yaml")
		return
	case errors.Is(err, qemu.ErrTooOld):
		r.fail("qemu", err.Error(), "install QEMU 7.2 or later for s390x")
		return
	case err != nil:
		r.fail("qemu", err.Error(), "see whether /dev/kvm opens and "+r.o.QEMU+" is QEMU for s390x")
		return
	}
	r.pass("qemu", strings.TrimSpace("QEMU "+c.Release.String()+" "+c.Release.Package))
	if !r.o.Emulated {
		if c.PVGuest {
			r.pass("qemu-pv-guest", "QEMU has the object s390-pv-guest")
		} else {
			r.fail("qemu-pv-guest", "QEMU has no object s390-pv-guest", "install a QEMU for s390x that was built with KVM")
		}
		if c.Unpack {
			r.pass("cpu-unpack", "guests get a CPU that can turn secure (feature unpack)")
		} else {
			r.fail("cpu-unpack", "guests get a CPU without the feature unpack: none can turn secure", "put right what is said of prot-virt-host first; KVM offers unpack once the kernel is a host")
		}
	}
	if c.Release.Sandbox {
		r.pass("qemu-sandbox", "QEMU confines itself by seccomp (-sandbox)")
	} else {
		r.warn("qemu-sandbox", "QEMU was built without seccomp: a guest that takes it over is confined by systemd's sandbox alone", "install a QEMU built with seccomp, as distributions do")
	}
}

// Free space below this much is worth a word, in bytes.
const lowSpace = 5 << 30

// storage: where guests' disks lie.
func (r *report) storage() {
	s, err := r.m.Space(r.o.State)
	switch {
	case err != nil:
		r.fail("state-folder", fmt.Sprintf("the state folder %s can't be examined: %s", r.o.State, cause(err)), "make it, or name another by state: in hostagent.yaml")
		return
	case s.Kind == "tmpfs" || s.Kind == "ramfs" || s.Kind == "overlay":
		r.warn("state-folder", fmt.Sprintf("the state folder %s is on %s: guests and their disks may be lost at the next boot", r.o.State, s.Kind), "put it on a disk by state: in hostagent.yaml")
	case s.Kind == "nfs" || s.Kind == "cifs" || s.Kind == "9p" || s.Kind == "fuse":
		r.warn("state-folder", fmt.Sprintf("the state folder %s is on a network file system (%s): it must have locks that hold across nodes, and one hostagent only may use the folder", r.o.State, s.Kind), "prefer a local file system; give shared disks to guests one by one")
	default:
		r.pass("state-folder", fmt.Sprintf("%s is on %s", r.o.State, s.Kind))
	}
	says := fmt.Sprintf("%d GiB of %d GiB are free in %s", s.Free>>30, s.Total>>30, r.o.State)
	if s.Free < lowSpace {
		r.warn("state-space", says, "make room: each guest has its own copy of its bundle's disks there")
		return
	}
	r.pass("state-space", says)
}

// memory: how much there is, and settings under which a large guest's start
// fails or its memory leaves the machine.
func (r *report) memory() {
	mib, err := platform.NodeMemory(r.m.Root)
	if err != nil {
		r.fail("memory", err.Error(), "mount /proc")
	} else {
		r.pass("memory", fmt.Sprintf("%d MiB for guests and the node, %d CPUs", mib, r.m.CPUs))
	}
	if r.line("proc/sys/vm/overcommit_memory") == "2" {
		r.warn("memory-overcommit", "the kernel promises no memory that it does not have (vm.overcommit_memory=2): a guest may fail to start although memory is free", "set vm.overcommit_memory=0; hostagent counts what guests were promised by itself")
	} else {
		r.pass("memory-overcommit", "the kernel gives memory when it is used (vm.overcommit_memory)")
	}
	switch swaps := strings.Count(r.line("proc/swaps"), "\n"); {
	case swaps == 0:
		r.pass("swap", "no swap: guest memory stays in memory")
	case r.o.Emulated:
		r.warn("swap", "emulated guests' memory may be swapped out in plain text", "turn swap off (swapoff -a) or use an encrypted one")
	default:
		r.pass("swap", "secure guests' pages are encrypted by firmware before they are swapped out")
	}
}

// minSystemd has what guests' units use.
const minSystemd = 249

// systemd: each guest's unit has bounds only where systemd has the cgroups.
func (r *report) systemd(ctx context.Context) {
	version, err := r.m.Systemd(ctx)
	switch {
	case err != nil:
		r.warn("systemd", "systemd's version can't be told: "+cause(err), "see systemctl --version")
	case version == 0:
		r.warn("systemd", "systemd does not run here: guests are hostagent's own children, without bounds or a sandbox by systemd", "on a provider's node run hostagent as the service of its package")
	case version < minSystemd:
		r.warn("systemd", fmt.Sprintf("systemd %d is older than %d, which guests' units were made for", version, minSystemd), "use a newer distribution")
	default:
		r.pass("systemd", "systemd "+strconv.Itoa(version))
	}
	if _, err := fs.Stat(r.m.Root, "sys/fs/cgroup/cgroup.controllers"); err != nil {
		r.warn("cgroup-v2", "the unified cgroup hierarchy is not mounted: bounds of guests are not enforced", "boot with systemd.unified_cgroup_hierarchy=1")
		return
	}
	var missing []string
	have := strings.Fields(r.line("sys/fs/cgroup/cgroup.controllers"))
	for _, c := range []string{"cpu", "io", "memory", "pids"} {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		r.warn("cgroup-v2", "cgroup v2 lacks the controllers "+strings.Join(missing, ", ")+": those bounds of guests are not enforced", "leave these controllers to cgroup v2 (kernel command line: cgroup_no_v1=all)")
		return
	}
	r.pass("cgroup-v2", "the unified cgroup hierarchy has cpu, io, memory and pids")
}

// What owners' channels go by.
const (
	ByVsock  = "vsock"
	BySerial = "virtio-serial"
)

// Channel tells what the owner's channel goes by into a guest that starts now.
func Channel(root fs.FS) string {
	if _, err := fs.Stat(root, qemu.VsockDevice[1:]); err != nil {
		return BySerial
	}
	return ByVsock
}

// devices that some guests use.
func (r *report) devices() {
	if _, err := fs.Stat(r.m.Root, "dev/net/tun"); err != nil {
		r.warn("tun", "there is no /dev/net/tun: guests with a tap network can't start", "load the kernel module: modprobe tun; without such guests it is not needed")
	} else {
		r.pass("tun", "/dev/net/tun is there for guests with a tap network")
	}
	if Channel(r.m.Root) == BySerial {
		r.warn("vhost-vsock", "there is no "+qemu.VsockDevice+": owners' channels go over virtio-serial ports", "load the kernel module: modprobe vhost_vsock; guests that start afterwards use it")
	} else {
		r.pass("vhost-vsock", "owners' channels go over vsock")
	}
}
