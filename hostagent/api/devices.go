package api

import (
	"cmp"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// maxWord bounds every string of a device but its path.
const maxWord = 64

// devicesTooLarge bounds what a request may hold before anything looks at it.
func devicesTooLarge(r *hostagentv1.CreateRequest) bool {
	if len(r.Disks) > qemu.MaxDisks || len(r.Networks) > qemu.MaxNets {
		return true
	}
	for _, d := range r.Disks {
		if len(d.Path) > maxPath || max(len(d.Serial), len(d.Format), len(d.Bus), len(d.Cache), len(d.Discard)) > maxWord {
			return true
		}
	}
	for _, n := range r.Networks {
		if max(len(n.Kind), len(n.Tap), len(n.Mac)) > maxWord || len(n.Publish) > qemu.MaxPublish || len(n.Socket) > maxPath {
			return true
		}
	}
	return false
}

func disksOf(disks []*hostagentv1.Disk) (out []store.Disk) {
	for _, d := range disks {
		out = append(out, store.Disk{
			Path: d.Path, Serial: d.Serial, ReadOnly: d.ReadOnly, Format: d.Format, Bus: d.Bus, Cache: d.Cache, Discard: d.Discard,
		})
	}
	return out
}

// showDisks tells a guest's disks with what a record of a bundle's leaves out.
func showDisks(disks []store.Disk) (out []*hostagentv1.Disk) {
	for _, d := range disks {
		out = append(out, &hostagentv1.Disk{
			Path: cmp.Or(d.Path, d.File), Serial: d.Serial, ReadOnly: d.ReadOnly,
			Format: cmp.Or(d.Format, string(qemu.Raw)), Bus: cmp.Or(d.Bus, string(qemu.VirtioBlk)),
			Cache: cmp.Or(d.Cache, string(qemu.Writeback)), Discard: cmp.Or(d.Discard, string(qemu.Ignore)),
		})
	}
	return out
}

func networksOf(networks []*hostagentv1.Network) (out []store.Network) {
	for _, n := range networks {
		s := store.Network{Kind: n.Kind, Tap: n.Tap, MAC: n.Mac, Queues: n.Queues, Socket: n.Socket}
		for _, p := range n.Publish {
			s.Publish = append(s.Publish, store.Publish{Node: p.NodePort, Guest: p.GuestPort})
		}
		out = append(out, s)
	}
	return out
}

func showNetworks(networks []store.Network) (out []*hostagentv1.Network) {
	for _, n := range networks {
		shown := &hostagentv1.Network{Kind: n.Kind, Tap: n.Tap, Mac: n.MAC, Queues: max(n.Queues, 1), Socket: n.Socket}
		for _, p := range n.Publish {
			shown.Publish = append(shown.Publish, &hostagentv1.Publish{NodePort: p.Node, GuestPort: p.Guest})
		}
		out = append(out, shown)
	}
	return out
}

func resourcesOf(r *hostagentv1.Resources) *store.Resources {
	if r == nil {
		return nil
	}
	return &store.Resources{CPUWeight: r.CpuWeight, CPUPercent: r.CpuPercent, IOWeight: r.IoWeight}
}

func showResources(r *store.Resources) *hostagentv1.Resources {
	if r == nil {
		return nil
	}
	return &hostagentv1.Resources{CpuWeight: r.CPUWeight, CpuPercent: r.CPUPercent, IoWeight: r.IOWeight}
}
