// Package libvirt says a guest in libvirt's words: the domain XML of the machine
// that package qemu makes, for providers that run sealed guests without a
// hostagent. docs/from-libvirt.md maps each element to ours.
//
// libvirt supervises such a guest as any other: nobody checks key slots or
// readiness, and nobody refuses what Secure Execution can't have.
package libvirt

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"regexp"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Guest is what a domain is made of. Paths are absolute.
type Guest struct {
	Name       string
	UUID       string // "": libvirt makes one
	MemoryMiB  int
	CPUs       int    // 0: 1
	Kernel     string // the SE boot image; "": firmware boots the first disk
	Loadparm   string // entry of that disk's boot menu, "" for the default
	ConsoleLog string // file that the console's output is appended to; "": none
	Disks      []qemu.Disk
	Nets       []qemu.Net
}

// Domain returns the domain's XML, ending in a line feed. It is made for a node
// with Secure Execution, and refuses what package qemu would.
func Domain(g *Guest) ([]byte, error) {
	g.CPUs = max(g.CPUs, 1)
	for _, err := range []error{qemu.CheckDisks(g.Disks), qemu.CheckNets(g.Nets), qemu.CheckLoadparm(g.Loadparm)} {
		if err != nil {
			return nil, fmt.Errorf("describe guest %s: %w", g.Name, err)
		}
	}
	if g.Kernel == "" && len(g.Disks) == 0 {
		return nil, fmt.Errorf("describe guest %s: it has neither an image nor a disk to boot from", g.Name)
	}
	for _, n := range g.Nets {
		if len(n.Publish) > 0 {
			return nil, fmt.Errorf("describe guest %s: libvirt's user network publishes no ports: give it a tap interface", g.Name)
		}
	}
	d := domain{
		Type: "kvm", Name: g.Name, UUID: g.UUID,
		Memory:  memory{Unit: "MiB", DumpCore: "off", Size: g.MemoryMiB},
		Backing: backing{NoSharePages: &empty{}},
		VCPU:    g.CPUs, IOThreads: qemu.IOThreads(g.CPUs, g.Disks),
		OS:       operatingSystem{Type: osType{Arch: "s390x", Machine: "s390-ccw-virtio", Text: "hvm"}, Kernel: g.Kernel},
		CPU:      cpu{Mode: "host-passthrough"},
		PowerOff: "destroy", Reboot: "restart", Crash: "destroy",
		Devices: devices{
			Disks: disks(g), Controllers: controllers(g), Interfaces: interfaces(g),
			Channels: []channel{
				{Type: "unix", Target: channelTarget{Type: "virtio", Name: qemu.ReadinessPort}},
				{Type: "unix", Target: channelTarget{Type: "virtio", Name: qemu.ChannelPort}},
			},
			Console: console{Type: "pty", Target: consoleTarget{Type: "sclp", Port: "0"}},
			Balloon: model{Model: "none"},
		},
		Security: security{Type: "s390-pv"},
	}
	if g.ConsoleLog != "" {
		d.Devices.Console.Log = &log{File: g.ConsoleLog, Append: "on"}
	}
	text, err := xml.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describe guest %s: %w", g.Name, err)
	}
	return append(noContent.ReplaceAll(bytes.ReplaceAll(text, []byte("&#34;"), []byte("&quot;")), []byte("/>")), '\n'), nil
}

// noContent is the end of an element without content, which encoding/xml has no
// short form for; '>' in a text is escaped.
var noContent = regexp.MustCompile(`></[a-zA-Z_]+>`)

func disks(g *Guest) []disk {
	var out []disk
	threads := qemu.IOThreads(g.CPUs, g.Disks)
	onBlk, onSCSI := 0, 0
	for i, d := range g.Disks {
		x := disk{
			Type: "file", Device: "disk",
			Driver: diskDriver{Name: "qemu", Type: word(d.Format, qemu.Raw), Cache: "writeback", IO: "threads", Discard: word(d.Discard, qemu.Ignore), DetectZeroes: "off"},
			Source: diskSource{File: d.Path}, Backing: &empty{}, Serial: d.Serial,
		}
		if d.Device {
			x.Type, x.Source = "block", diskSource{Dev: d.Path}
		}
		if d.Cache == qemu.Direct {
			x.Driver.Cache, x.Driver.IO = "none", "native" // libvirt's word for O_DIRECT with the guest's flushes
		}
		if d.ReadOnly {
			x.ReadOnly = &empty{}
		}
		if d.Bus == qemu.VirtioSCSI {
			x.Target = diskTarget{Dev: diskName("sd", onSCSI), Bus: "scsi"}
			x.Address = address{Type: "drive", Controller: "0", Bus: "0", Target: fmt.Sprint(i), Unit: "0"}
			onSCSI++
		} else {
			x.Target = diskTarget{Dev: diskName("vd", onBlk), Bus: "virtio"}
			x.Driver.Queues, x.Driver.IOMMU = qemu.DiskQueues(g.CPUs), "on"
			if threads > 0 {
				x.Driver.IOThread = i%threads + 1
			}
			x.Address = ccw(qemu.DevnoDisks + i)
			onBlk++
		}
		if g.Kernel == "" && i == 0 {
			x.Boot = &boot{Order: 1, Loadparm: g.Loadparm}
		}
		out = append(out, x)
	}
	return out
}

func controllers(g *Guest) []controller {
	out := []controller{{Type: "virtio-serial", Driver: controllerDriver{IOMMU: "on"}, Address: ccw(qemu.DevnoSerial)}}
	threads := qemu.IOThreads(g.CPUs, g.Disks)
	for i, d := range g.Disks {
		if d.Bus != qemu.VirtioSCSI {
			continue
		}
		c := controller{Type: "scsi", Model: "virtio-scsi", Driver: controllerDriver{Queues: qemu.DiskQueues(g.CPUs), IOMMU: "on"}, Address: ccw(qemu.DevnoSCSI)}
		if threads > 0 {
			c.Driver.IOThread = i%threads + 1
		}
		return append(out, c)
	}
	return out
}

func interfaces(g *Guest) []netInterface {
	var out []netInterface
	for i, n := range g.Nets {
		x := netInterface{
			Type: "user", MAC: mac{n.MAC}, Model: netModel{"virtio"},
			Driver: netDriver{Name: "qemu", IOMMU: "on"}, Address: ccw(qemu.DevnoNets + i),
		}
		if n.Tap != "" {
			x.Type, x.Target = "ethernet", &netTarget{Dev: n.Tap, Managed: "no"}
		}
		if n.Queues > 1 {
			x.Driver.Queues = n.Queues
		}
		out = append(out, x)
	}
	return out
}

// ccw is the address of device number devno.
func ccw(devno int) address {
	return address{Type: "ccw", CSSID: "0xfe", SSID: "0x0", Devno: fmt.Sprintf("0x%04x", devno)}
}

// diskName counts vda, vdb, …, vdz, vdaa.
func diskName(prefix string, i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return prefix + name
}

func word[T ~string](v, fallback T) string {
	if v == "" {
		v = fallback
	}
	return string(v)
}
