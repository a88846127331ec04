package pod

import (
	"fmt"
	"math"
	"strings"

	"github.com/secexec/secexec/form"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// resources turns limits into what a guest gets.
//
// The container's memory limit is the guest's memory, whole. What QEMU itself
// takes comes on top, is no part of any limit here, and is what the runtime
// class's overhead is for: the scheduler adds it to the pod.
//
// The CPU limit is a quota over as many virtual CPUs as can use it; the request
// is a weight among guests.
func (s *spec) resources(c *hostagentv1.CreateRequest) error {
	r := &s.Linux.Resources
	const mib = 1 << 20
	if limit := r.Memory.Limit; limit > 0 {
		if limit < mib || limit/mib > math.MaxUint32 {
			return invalid("memory limit of %d bytes", limit)
		}
		c.MemoryMib = uint32(limit / mib)
	}
	var weight, percent uint32
	if cpu := &r.CPU; cpu.Quota > 0 {
		period := int64(100_000) // the kernel's default, in microseconds
		if cpu.Period != 0 {
			if cpu.Period > 1_000_000 {
				return invalid("CPU period of %d microseconds", cpu.Period)
			}
			period = int64(cpu.Period)
		}
		if cpu.Quota > 1<<40 || cpu.Quota/period > 1<<16 {
			return invalid("CPU quota of %d microseconds in %d", cpu.Quota, period)
		}
		c.Cpus = uint32((cpu.Quota + period - 1) / period)
		percent = uint32((cpu.Quota*100 + period - 1) / period)
	}
	if shares := r.CPU.Shares; shares > 0 {
		// As runc makes of cgroup v1's shares (2 to 262144) v2's weight (1 to 10000).
		shares = min(max(shares, 2), 262144)
		weight = uint32(1 + (shares-2)*9999/262142)
	}
	if weight != 0 || percent != 0 {
		c.Resources = &hostagentv1.Resources{CpuWeight: weight, CpuPercent: percent}
	}
	return nil
}

// disks turns the pod's raw block volumes into disks. A disk's serial number is
// the name of the volume's devicePath behind /dev/. Its path is the link that udev
// has for each block device, by number: the node's own name for it is not in a
// config.json.
func (s *spec) disks() (out []*hostagentv1.Disk, err error) {
	seen := make(map[string]bool)
	for _, d := range s.Linux.Devices {
		if d.Type != "b" {
			return nil, refuse(Device, "device %.200q", d.Path)
		}
		serial, ok := strings.CutPrefix(d.Path, "/dev/")
		if !ok || !form.Serial.MatchString(serial) || seen[serial] {
			return nil, refuse(Serial, "devicePath %.200q", d.Path)
		}
		if d.Major < 0 || d.Major >= 1<<12 || d.Minor < 0 || d.Minor >= 1<<20 { // as many as the kernel has
			return nil, invalid("device %.200q has number %d:%d", d.Path, d.Major, d.Minor)
		}
		seen[serial] = true
		out = append(out, &hostagentv1.Disk{
			Path: fmt.Sprintf("/dev/block/%d:%d", d.Major, d.Minor), Serial: serial, ReadOnly: !s.writable(d),
		})
	}
	return out, nil
}

// writable tells whether a device may be written to: the last rule about it says
// so.
func (s *spec) writable(d device) (yes bool) {
	for _, rule := range s.Linux.Resources.Devices {
		if rule.Type == "b" && rule.Major != nil && *rule.Major == d.Major && rule.Minor != nil && *rule.Minor == d.Minor {
			yes = rule.Allow && strings.Contains(rule.Access, "w")
		}
	}
	return yes
}
