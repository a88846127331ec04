package libvirt

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/qemu"
)

var update = flag.Bool("update", false, "write golden files")

// guests are those with golden files.
func guests() map[string]*Guest {
	return map[string]*Guest{
		"full": {
			Name: "web-1", UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", MemoryMiB: 512, CPUs: 4,
			Kernel: "/state/guests/web-1/boot.seimg", ConsoleLog: "/state/guests/web-1/console.log",
			Disks: []qemu.Disk{
				{Path: "/state/guests/web-1/root.img", Serial: "root"},
				{Path: "/srv/a <&> \"b\" 'c'.qcow2", Serial: "data", Format: qemu.Qcow2, Bus: qemu.VirtioSCSI, Discard: qemu.Unmap},
				{Path: "/srv/more.qcow2", Serial: "more", Format: qemu.Qcow2, ReadOnly: true, Cache: qemu.Direct},
				{Path: "/dev/vg/lv", Device: true, Serial: "lv", Cache: qemu.Direct, Bus: qemu.VirtioSCSI},
			},
			Nets: []qemu.Net{
				{MAC: "52:54:00:12:34:56", User: true},
				{MAC: "52:54:00:12:34:57", Tap: "tap0", Queues: 4},
			},
		},
		"bundle":   {Name: "hello", MemoryMiB: 256, Kernel: "/srv/hello/boot.seimg", Disks: []qemu.Disk{{Path: "/srv/hello/root.img", Serial: "root"}}},
		"bootdisk": {Name: "hello", MemoryMiB: 256, CPUs: 2, Loadparm: "2", Disks: []qemu.Disk{{Path: "/srv/hello/disk.raw", Serial: "boot"}}},
		"scsiboot": {Name: "hello", MemoryMiB: 256, CPUs: 2, Disks: []qemu.Disk{{Path: "/srv/hello/disk.raw", Serial: "boot", Bus: qemu.VirtioSCSI}}},
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	for name, g := range guests() {
		got, err := Domain(g)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for words, g := range map[string]*Guest{
		"neither an image nor a disk": {Name: "g"},
		"used twice":                  {Name: "g", Kernel: "/k", Disks: []qemu.Disk{{Path: "/a", Serial: "a"}, {Path: "/b", Serial: "a"}}},
		"not absolute":                {Name: "g", Kernel: "/k", Disks: []qemu.Disk{{Path: "a", Serial: "a"}}},
		"control":                     {Name: "g", Kernel: "/k", Disks: []qemu.Disk{{Path: "/a\x01", Serial: "a"}}},
		"loadparm":                    {Name: "g", Disks: []qemu.Disk{{Path: "/a", Serial: "a"}}, Loadparm: "'"},
		"MAC":                         {Name: "g", Kernel: "/k", Nets: []qemu.Net{{User: true}}},
		"publishes no ports":          {Name: "g", Kernel: "/k", Nets: []qemu.Net{{User: true, MAC: "52:54:00:12:34:56", Publish: []qemu.Publish{{Node: 80, Guest: 80}}}}},
	} {
		if text, err := Domain(g); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s, %v; want an error about %s", text, err, words)
		}
	}
}

func TestDiskNames(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]string{0: "vda", 25: "vdz", 26: "vdaa", 51: "vdaz", 52: "vdba"} {
		if got := diskName("vd", i); got != want {
			t.Errorf("disk %d is %s, want %s", i, got, want)
		}
	}
}
