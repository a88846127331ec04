package guest

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

const deviceUUID = "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c"

func deviceRecord() *store.Guest {
	return &store.Guest{Name: "g", UUID: deviceUUID, Disks: []store.Disk{{File: "root.img", Serial: "root"}}}
}

// What a request leaves out is in the record: nothing about a guest's devices
// depends on which hostagent starts it.
func TestAttach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, link := filepath.Join(dir, "raw"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(raw, make([]byte, 4096), 0o600), os.Symlink(raw, link)); err != nil {
		t.Fatal(err)
	}
	rec := deviceRecord()
	err := attach(rec, []store.Disk{
		{Path: raw},
		{Path: link, Serial: "data", ReadOnly: true, Format: "raw", Bus: "virtio-scsi"},
	}, []store.Network{{Kind: "user"}, {Kind: "user", MAC: "52:54:00:00:00:01"}, {Kind: "user"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []store.Disk{
		{File: "root.img", Serial: "root"},
		{Path: raw, Serial: "disk1", Format: "raw", Bus: "virtio-blk", Cache: "writeback", Discard: "ignore"},
		{Path: link, Serial: "data", ReadOnly: true, Format: "raw", Bus: "virtio-scsi", Cache: "writeback", Discard: "ignore"},
	}; !reflect.DeepEqual(rec.Disks, want) {
		t.Errorf("disks %+v, want %+v", rec.Disks, want)
	}
	first, _ := qemu.MAC(deviceUUID, 0)
	third, _ := qemu.MAC(deviceUUID, 2)
	if want := []store.Network{
		{Kind: "user", MAC: first, Queues: 1}, {Kind: "user", MAC: "52:54:00:00:00:01", Queues: 1}, {Kind: "user", MAC: third, Queues: 1},
	}; !reflect.DeepEqual(rec.Networks, want) {
		t.Errorf("networks %+v, want %+v", rec.Networks, want)
	}
	// And a start's configuration is made of the record alone.
	disks, err := diskConfig(rec, "/state/g")
	if err != nil || len(disks) != 3 || disks[0].Path != "/state/g/root.img" || disks[2].Path != link || disks[2].Bus != qemu.VirtioSCSI {
		t.Errorf("%+v, %v", disks, err)
	}
	nets, err := netConfig(rec)
	if err != nil || len(nets) != 3 || !nets[0].User || nets[0].MAC != first {
		t.Errorf("%+v, %v", nets, err)
	}
	// A disk that is gone by the next start is named.
	os.Remove(raw)
	if _, err := diskConfig(rec, "/state/g"); fault.As(err).Code != fault.Disk || !strings.Contains(err.Error(), raw) {
		t.Errorf("a disk that is gone: %v", err)
	}
}

func TestAttachRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string, size int64) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	raw, odd := write("raw", "", 4096), write("odd", "", 100)
	qcow2, backed := write("qcow2", "QFI\xfb", 4096), write("backed", "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00", 4096)
	for _, c := range []struct {
		name  string
		disk  store.Disk
		net   store.Network
		code  fault.Code
		words string
	}{
		{name: "no such disk", disk: store.Disk{Path: dir + "/none"}, code: fault.Disk, words: "none: no such file"},
		{name: "folder", disk: store.Disk{Path: dir, ReadOnly: true}, code: fault.Disk, words: "neither a regular file nor a block device"},
		{name: "character device", disk: store.Disk{Path: "/dev/null"}, code: fault.Disk, words: "neither"},
		{name: "part of a sector", disk: store.Disk{Path: odd}, code: fault.Disk, words: "512-byte"},
		{name: "raw that looks like qcow2", disk: store.Disk{Path: qcow2}, code: fault.DiskImage, words: "say that its format is qcow2"},
		{name: "qcow2 with a backing file", disk: store.Disk{Path: backed, Format: "qcow2"}, code: fault.DiskImage, words: "backing file"},
		{name: "raw as qcow2", disk: store.Disk{Path: raw, Format: "qcow2"}, code: fault.DiskImage, words: "qcow2 header"},
		{name: "relative path", disk: store.Disk{Path: "raw"}, code: fault.BadRequest, words: "absolute"},
		{name: "no path", disk: store.Disk{}, code: fault.BadRequest, words: "absolute"},
		{name: "file of the guest's folder", disk: store.Disk{File: "root.img"}, code: fault.BadRequest, words: "absolute"},
		{name: "serial of the bundle's", disk: store.Disk{Path: raw, Serial: "root"}, code: fault.BadRequest, words: "twice"},
		{name: "unknown bus", disk: store.Disk{Path: raw, Bus: "ide"}, code: fault.BadRequest, words: "virtio-blk or virtio-scsi"},
		{name: "unknown cache mode", disk: store.Disk{Path: raw, Cache: "unsafe"}, code: fault.BadRequest, words: "writeback or direct"},
		{name: "unknown format", disk: store.Disk{Path: raw, Format: "vmdk"}, code: fault.BadRequest, words: "raw or qcow2"},
		{name: "no such tap", net: store.Network{Kind: "tap", Tap: "sx-none"}, code: fault.Network, words: "ip tuntap add dev sx-none mode tap"},
		{name: "not a tap", net: store.Network{Kind: "tap", Tap: "lo"}, code: fault.Network, words: "lo is no tap interface"},
		{name: "tap without a name", net: store.Network{Kind: "tap"}, code: fault.BadRequest, words: "names its interface"},
		{name: "user with a name", net: store.Network{Kind: "user", Tap: "tap0"}, code: fault.BadRequest, words: "and no other"},
		{name: "handed without a socket", net: store.Network{Kind: "handed"}, code: fault.BadRequest, words: "one of kind handed a socket"},
		{name: "tap with a socket", net: store.Network{Kind: "tap", Tap: "sx-none", Socket: "/s"}, code: fault.BadRequest, words: "and no other"},
		{name: "socket by a relative path", net: store.Network{Kind: "handed", Socket: "s"}, code: fault.BadRequest, words: "not absolute"},
		{name: "bridge", net: store.Network{Kind: "bridge"}, code: fault.BadRequest, words: "user, tap or handed"},
		{name: "bad MAC", net: store.Network{Kind: "user", MAC: "x"}, code: fault.BadRequest, words: "MAC"},
		{name: "queues of user mode", net: store.Network{Kind: "user", Queues: 2}, code: fault.BadRequest, words: "one queue pair"},
		{name: "queues beyond all", net: store.Network{Kind: "tap", Tap: "sx-none", Queues: 1<<32 - 1}, code: fault.BadRequest, words: "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var disks []store.Disk
			var nets []store.Network
			if c.net.Kind != "" {
				nets = append(nets, c.net)
			} else {
				disks = append(disks, c.disk)
			}
			err := attach(deviceRecord(), disks, nets)
			if err == nil || fault.As(err).Code != c.code || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %s about %q", err, c.code, c.words)
			}
		})
	}
}

func TestCheckResources(t *testing.T) {
	t.Parallel()
	for r, ok := range map[store.Resources]bool{
		{}: true, {CPUWeight: 10_000, CPUPercent: 24_800, IOWeight: 10_000}: true,
		{CPUWeight: 10_001}: false, {CPUPercent: 24_801}: false, {IOWeight: 1 << 31}: false,
	} {
		if err := checkResources(&r); (err == nil) != ok || err != nil && fault.As(err).Code != fault.BadRequest {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
