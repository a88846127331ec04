package qemu

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files")

// full is a guest with one of each device.
func full() *Config {
	return &Config{
		Name: "web-1", UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", Binary: "qemu-system-s390x",
		MemoryMiB: 512, CPUs: 2, Kernel: "/state/guests/web-1/boot.seimg",
		Disks: []Disk{
			{Path: "/state/guests/web-1/root.img", Serial: "root"},
			{Path: "/state/guests/web-1/data.img", Serial: "data", ReadOnly: true, Bus: VirtioSCSI},
			{Path: "/state/guests/web-1/more.img", Serial: "more", Bus: VirtioBlk, Cache: Direct},
		},
		Nets:        []Net{{MAC: "52:54:00:12:34:56", User: true}},
		ConsolePath: "/state/guests/web-1/console.log", ReadinessSocket: "/run/guests/web-1/readiness.sock",
		ChannelSocket: "/run/guests/web-1/channel.sock",
		QMPSocket:     "/run/guests/web-1/qmp.sock", RuntimeDir: "/run/guests/web-1",
		Sandbox: true, Accel: "kvm", CPU: "host", Confidential: true, Stopped: true,
	}
}

// golden compares an argument vector, one argument a line, options with their
// value, with a file.
func golden(t *testing.T, name string, argv []string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(argv[0])
	for _, arg := range argv[1:] {
		if strings.HasPrefix(arg, "-") {
			b.WriteString("\n" + arg)
		} else {
			b.WriteString(" " + arg)
		}
	}
	got := b.String() + "\n"
	path := filepath.Join("testdata", name+".argv")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
	}
}

func TestArgsOfEachDevice(t *testing.T) {
	t.Parallel()
	argv, err := Args(full())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full", argv)

	least := &Config{
		Name: "least", UUID: full().UUID, Binary: "/usr/bin/qemu-system-s390x", MemoryMiB: 64, CPUs: 1,
		Kernel: "/k", QMPSocket: "/q", Accel: "tcg", CPU: "max",
	}
	if argv, err = Args(least); err != nil {
		t.Fatal(err)
	}
	golden(t, "least", argv)

	withVsock := full()
	withVsock.CID, withVsock.Vhost, withVsock.vhostFD = 70000, os.Stdin, 12
	if argv, err = Args(withVsock); err != nil {
		t.Fatal(err)
	}
	golden(t, "vsock", argv)

	tap := full()
	tap.Nets = []Net{{MAC: "52:54:00:12:34:56", Tap: "tap.web-1"}, {MAC: "52:54:00:12:34:57", Tap: "tap.web-2", Queues: 2}}
	if argv, err = Args(tap); err != nil {
		t.Fatal(err)
	}
	golden(t, "tap", argv)

	pod := full() // a tap interface and a description came from another program
	pod.Nets, pod.letter = []Net{{MAC: "52:54:00:12:34:56", Socket: "/run/pods/a.sock", FDs: []int{12}}}, 13
	if argv, err = Args(pod); err != nil {
		t.Fatal(err)
	}
	golden(t, "pod", argv)

	devices := full()
	devices.CPUs = 8
	devices.Disks = []Disk{
		{Path: "/state/guests/web-1/root.img", Serial: "root"},
		{Path: "/srv/data.qcow2", Serial: "data", Format: Qcow2, Bus: VirtioSCSI, Discard: Unmap},
		{Path: "/srv/more.qcow2", Serial: "more", Format: Qcow2, ReadOnly: true, Cache: Direct},
		{Path: "/dev/vg/lv", Device: true, Serial: "lv", Format: Raw, Cache: Direct, Discard: Unmap},
		{Path: "/dev/vg/lv2", Device: true, Serial: "lv2", Bus: VirtioSCSI},
	}
	devices.Nets = []Net{
		{MAC: "52:54:00:12:34:56", Tap: "tap0", FDs: []int{7}},
		{MAC: "52:54:00:12:34:57", Tap: "tap1", Queues: 4, FDs: []int{8, 9, 10, 11}},
	}
	if argv, err = Args(devices); err != nil {
		t.Fatal(err)
	}
	golden(t, "devices", argv)

	disk := full()
	disk.Kernel, disk.BootDisk, disk.Loadparm = "", true, "2"
	if argv, err = Args(disk); err != nil {
		t.Fatal(err)
	}
	golden(t, "disk", argv)
}

// With its files handed over QEMU is told no path of the guest's.
func TestArgsOfHandedFiles(t *testing.T) {
	t.Parallel()
	c := full()
	c.MemoryFile, c.GDBSocket = "/run/guests/web-1/ram", "/run/guests/web-1/gdb.sock"
	c.number(c.files())
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "handed", argv)
	for _, arg := range argv {
		if strings.Contains(arg, "/run/") || strings.Contains(arg, "/state/") {
			t.Errorf("argument %s holds a path", arg)
		}
	}
}

// Whatever Args makes of a valid configuration, every virtio device has
// iommu_platform=on and nothing that Secure Execution cannot have is there.
func TestArgsKeepTheRules(t *testing.T) {
	t.Parallel()
	argv, err := Args(full())
	if err != nil {
		t.Fatal(err)
	}
	virtio := 0
	for i, arg := range argv {
		for _, banned := range []string{"balloon", "vfio", "hugetlb", "mem-prealloc", "-mem-path", "migrat", "loadvm", "-daemonize"} {
			if strings.Contains(arg, banned) {
				t.Errorf("argument %q holds %s", arg, banned)
			}
		}
		if argv[max(i-1, 0)] != "-device" {
			continue
		}
		var device map[string]any
		if err := json.Unmarshal([]byte(arg), &device); err != nil {
			t.Fatalf("%v in %s", err, arg)
		}
		if strings.HasPrefix(device["driver"].(string), "virtio-") {
			virtio++
			if device["iommu_platform"] != true {
				t.Errorf("no iommu_platform: %s", arg)
			}
		}
	}
	if virtio != 5 { // serial, scsi, two blk, net
		t.Errorf("%d virtio devices", virtio)
	}
}

// A path keeps its meaning whatever it is made of.
func TestArgsQuotePaths(t *testing.T) {
	t.Parallel()
	const odd = `/a,b=c "d" \e' <é>&%s,`
	c := full()
	c.Kernel, c.ConsolePath, c.QMPSocket, c.Disks[0].Path, c.MemoryFile = odd, odd, odd, odd, odd
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	after := func(option, holds string) string {
		for i, arg := range argv[1:] {
			if argv[i] == option && strings.Contains(arg, holds) {
				return arg
			}
		}
		t.Fatalf("no %s with %s", option, holds)
		return ""
	}
	for _, option := range [][2]string{{"-blockdev", "disk0-file"}, {"-object", "memory-backend-file"}} {
		var o map[string]any
		if err := json.Unmarshal([]byte(after(option[0], option[1])), &o); err != nil {
			t.Fatal(err)
		}
		if o["filename"] != odd && o["mem-path"] != odd {
			t.Errorf("%s: path became %q %q", option, o["filename"], o["mem-path"])
		}
	}
	double := strings.ReplaceAll(odd, ",", ",,")
	if got, want := after("-chardev", "file"), "file,id=console,path="+double+",append=on"; got != want {
		t.Errorf("console %q, want %q", got, want)
	}
	if got, want := after("-chardev", "id=qmp"), "socket,id=qmp,path="+double+",server=on,wait=off"; got != want {
		t.Errorf("monitor %q, want %q", got, want)
	}
	if got := after("-kernel", ""); got != odd {
		t.Errorf("kernel %q", got)
	}
}

func TestConfigRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Config)
		words  string
	}{
		{"empty name", func(c *Config) { c.Name = "" }, "guest name"},
		{"name that adds an option", func(c *Config) { c.Name = "a,process=x" }, "guest name"},
		{"name with slash", func(c *Config) { c.Name = "../a" }, "guest name"},
		{"long name", func(c *Config) { c.Name = strings.Repeat("a", 64) }, "guest name"},
		{"upper-case UUID", func(c *Config) { c.UUID = strings.ToUpper(c.UUID) }, "UUID"},
		{"no UUID", func(c *Config) { c.UUID = "" }, "UUID"},
		{"no program", func(c *Config) { c.Binary = "" }, "program"},
		{"no memory", func(c *Config) { c.MemoryMiB = 0 }, "memory"},
		{"too much memory", func(c *Config) { c.MemoryMiB = MaxMemoryMiB + 1 }, "memory"},
		{"no CPU", func(c *Config) { c.CPUs = 0 }, "CPUs"},
		{"too many CPUs", func(c *Config) { c.CPUs = MaxCPUs + 1 }, "CPUs"},
		{"unknown accelerator", func(c *Config) { c.Accel = "hvf" }, "accelerator"},
		{"no accelerator", func(c *Config) { c.Accel = "" }, "accelerator"},
		{"secure guest without kvm", func(c *Config) { c.Accel = "tcg" }, "s390-pv-guest"},
		{"CPU that adds an option", func(c *Config) { c.CPU = "host -device x" }, "CPU model"},
		{"no kernel", func(c *Config) { c.Kernel = "" }, "kernel path"},
		{"kernel and boot disk", func(c *Config) { c.BootDisk = true }, "boot from disk"},
		{"no disk to boot from", func(c *Config) { c.Kernel, c.BootDisk, c.Disks = "", true, nil }, "0 disks"},
		{"loadparm without boot disk", func(c *Config) { c.Loadparm = "1" }, "loadparm"},
		{"loadparm that adds an option", func(c *Config) { c.Kernel, c.BootDisk, c.Loadparm = "", true, "1,x=y" }, "loadparm"},
		{"relative kernel", func(c *Config) { c.Kernel = "boot.seimg" }, "kernel path"},
		{"no monitor", func(c *Config) { c.QMPSocket = "" }, "QMP socket"},
		{"long socket path", func(c *Config) { c.QMPSocket = "/" + strings.Repeat("a", 107) }, "room for 107"},
		{"unclean path", func(c *Config) { c.ConsolePath = "/a/../b" }, "console path"},
		{"line end in a path", func(c *Config) { c.ConsolePath = "/a\nb" }, "control"},
		{"path that is not UTF-8", func(c *Config) { c.Disks[0].Path = "/a\xff" }, "undecodable"},
		{"disk without serial", func(c *Config) { c.Disks[0].Serial = "" }, "serial"},
		{"long serial", func(c *Config) { c.Disks[0].Serial = strings.Repeat("a", 21) }, "serial"},
		{"serial twice", func(c *Config) { c.Disks[1].Serial = c.Disks[0].Serial }, "twice"},
		{"unknown bus", func(c *Config) { c.Disks[0].Bus = "ide" }, "bus"},
		{"unsafe cache", func(c *Config) { c.Disks[0].Cache = "unsafe" }, "cache"},
		{"too many disks", func(c *Config) { c.Disks = make([]Disk, MaxDisks+1) }, "disks"},
		{"unknown format", func(c *Config) { c.Disks[0].Format = "vmdk" }, "raw or qcow2"},
		{"unknown discard mode", func(c *Config) { c.Disks[0].Discard = "on" }, "ignore or unmap"},
		{"discard of a read-only disk", func(c *Config) { c.Disks[1].Discard = Unmap }, "read-only"},
		{"network without backend", func(c *Config) { c.Nets[0].User = false }, "tap"},
		{"network with two backends", func(c *Config) { c.Nets[0].Tap = "t" }, "tap"},
		{"bad MAC", func(c *Config) { c.Nets[0].MAC = "52:54:00:12:34" }, "MAC"},
		{"MAC of a group", func(c *Config) { c.Nets[0].MAC = "53:54:00:12:34:56" }, "MAC"},
		{"MAC of nobody", func(c *Config) { c.Nets[0].MAC = "00:00:00:00:00:00" }, "MAC"},
		{"MAC twice", func(c *Config) { c.Nets = append(c.Nets, c.Nets[0]) }, "twice"},
		{"long tap name", func(c *Config) { c.Nets[0] = Net{MAC: c.Nets[0].MAC, Tap: strings.Repeat("t", 16)} }, "tap interface"},
		{"tap twice", func(c *Config) {
			c.Nets = []Net{{MAC: "52:54:00:12:34:56", Tap: "t"}, {MAC: "52:54:00:12:34:57", Tap: "t"}}
		}, "twice"},
		{"queues of a user-mode network", func(c *Config) { c.Nets[0].Queues = 2 }, "one queue pair"},
		{"port published twice", func(c *Config) { c.Nets[0].Publish = []Publish{{80, 80}, {80, 81}} }, "published twice"},
		{"port 0", func(c *Config) { c.Nets[0].Publish = []Publish{{80, 0}} }, "80:0 is not in"},
		{"port of a tap", func(c *Config) {
			c.Nets[0] = Net{MAC: c.Nets[0].MAC, Tap: "t", Publish: []Publish{{80, 80}}}
		}, "others none"},
		{"too many queues", func(c *Config) { c.Nets[0] = Net{MAC: c.Nets[0].MAC, Tap: "t", Queues: MaxNetQueues + 1} }, "at most"},
		{"descriptors for other queues", func(c *Config) { c.Nets[0] = Net{MAC: c.Nets[0].MAC, Tap: "t", Queues: 2, FDs: []int{3}} }, "descriptors"},
		{"vsock address of the host", func(c *Config) { c.CID, c.Vhost = 2, os.Stdin }, "vsock address 2 is not"},
		{"vsock address without a device", func(c *Config) { c.CID = firstCID }, "both"},
		{"vsock device without an address", func(c *Config) { c.Vhost = os.Stdin }, "both"},
		{"relative socket", func(c *Config) { c.Nets[0] = Net{MAC: c.Nets[0].MAC, Socket: "a.sock"} }, "absolute"},
		{"long socket", func(c *Config) { c.Nets[0] = Net{MAC: c.Nets[0].MAC, Socket: "/" + strings.Repeat("a", 107)} }, "107"},
		{"socket and user mode", func(c *Config) { c.Nets[0].Socket = "/a.sock" }, "one of"},
		{"two networks handed over", func(c *Config) {
			c.Nets = []Net{{MAC: "52:54:00:12:34:56", Socket: "/a.sock"}, {MAC: "52:54:00:12:34:57", Socket: "/b.sock"}}
		}, "two networks"},
		{"too many networks", func(c *Config) { c.Nets = make([]Net, MaxNets+1) }, "networks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := full()
			c.change(cfg)
			argv, err := Args(cfg)
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.words) || argv != nil {
				t.Errorf("Args = %q, %v; want an error about %s", argv, err, c.words)
			}
		})
	}
}

// Threads for disks pay where there are CPUs to be kept from waiting.
func TestIOThreads(t *testing.T) {
	t.Parallel()
	blk, scsi := Disk{}, Disk{Bus: VirtioSCSI}
	for _, c := range []struct {
		cpus, want int
		disks      []Disk
	}{
		{1, 0, []Disk{blk, blk}}, {2, 1, []Disk{blk, blk}}, {3, 1, []Disk{blk, blk}}, {4, 2, []Disk{blk, blk, blk}},
		{8, 1, []Disk{blk}}, {8, 1, []Disk{scsi, scsi}}, {8, 2, []Disk{blk, scsi, scsi}}, {8, 0, nil},
		{MaxCPUs, maxIOThreads, make([]Disk, MaxDisks)},
	} {
		if got := IOThreads(c.cpus, c.disks); got != c.want {
			t.Errorf("%d CPUs with %d disks: %d threads, want %d", c.cpus, len(c.disks), got, c.want)
		}
	}
}

func TestLimitsThatJustFit(t *testing.T) {
	t.Parallel()
	c := full()
	c.Name, c.MemoryMiB, c.CPUs = strings.Repeat("a", 63), MaxMemoryMiB, MaxCPUs
	c.QMPSocket = "/" + strings.Repeat("a", 106)
	c.Disks[0].Serial = strings.Repeat("a", 20)
	c.Nets[0] = Net{MAC: c.Nets[0].MAC, Tap: strings.Repeat("t", 15), Queues: MaxNetQueues}
	if _, err := Args(c); err != nil {
		t.Error(err)
	}
}
