package api

import (
	"reflect"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Each field of a device goes there and back.
func TestDevicesThereAndBack(t *testing.T) {
	t.Parallel()
	disks := []store.Disk{{Path: "/p", Serial: "s", ReadOnly: true, Format: "qcow2", Bus: "virtio-scsi", Cache: "direct", Discard: "unmap"}}
	if got := disksOf(showDisks(disks)); !reflect.DeepEqual(got, disks) {
		t.Errorf("%+v, want %+v", got, disks)
	}
	nets := []store.Network{{Kind: "tap", Tap: "t", MAC: "m", Queues: 3, Socket: "/s", Publish: []store.Publish{{Node: 1, Guest: 2}}}}
	if got := networksOf(showNetworks(nets)); !reflect.DeepEqual(got, nets) {
		t.Errorf("%+v, want %+v", got, nets)
	}
	for _, v := range []any{disks[0], nets[0]} { // none was forgotten above
		for i, s := 0, reflect.ValueOf(v); i < s.NumField(); i++ {
			if name := s.Type().Field(i).Name; s.Field(i).IsZero() && name != "File" {
				t.Errorf("field %s is not tested", name)
			}
		}
	}
	bundled := showDisks([]store.Disk{{File: "root.img", Serial: "root"}})[0]
	if bundled.Path != "root.img" || bundled.Format != "raw" || bundled.Bus != "virtio-blk" || bundled.Cache != "writeback" || bundled.Discard != "ignore" {
		t.Errorf("a bundle's disk shows as %v", bundled)
	}
	if showNetworks([]store.Network{{}})[0].Queues != 1 {
		t.Error("queues")
	}
}

func TestDevicesAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", maxWord+1)
	disks, nets := make([]*hostagentv1.Disk, qemu.MaxDisks), make([]*hostagentv1.Network, qemu.MaxNets)
	for i := range disks {
		disks[i] = &hostagentv1.Disk{Path: strings.Repeat("a", maxPath), Serial: long[1:]}
	}
	for i := range nets {
		nets[i] = &hostagentv1.Network{Tap: long[1:]}
	}
	if devicesTooLarge(&hostagentv1.CreateRequest{Disks: disks, Networks: nets}) {
		t.Error("what just fits is refused")
	}
	for i, r := range []*hostagentv1.CreateRequest{
		{Disks: make([]*hostagentv1.Disk, qemu.MaxDisks+1)}, {Networks: make([]*hostagentv1.Network, qemu.MaxNets+1)},
		{Disks: []*hostagentv1.Disk{{Path: strings.Repeat("a", maxPath+1)}}}, {Disks: []*hostagentv1.Disk{{Serial: long}}},
		{Disks: []*hostagentv1.Disk{{Cache: long}}}, {Networks: []*hostagentv1.Network{{Mac: long}}},
		{Networks: []*hostagentv1.Network{{Socket: strings.Repeat("a", maxPath+1)}}},
		{Networks: []*hostagentv1.Network{{Publish: make([]*hostagentv1.Publish, qemu.MaxPublish+1)}}},
	} {
		if !devicesTooLarge(r) {
			t.Errorf("request %d passes", i)
		}
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	for _, r := range []*store.Resources{nil, {}, {CPUWeight: 10, CPUPercent: 150, IOWeight: 1}} {
		if got := resourcesOf(showResources(r)); !reflect.DeepEqual(got, r) {
			t.Errorf("%+v becomes %+v", r, got)
		}
	}
}
