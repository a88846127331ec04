package guest

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

// Request says what to create.
type Request struct {
	Name      string // "": the bundle's
	Bundle    string // absolute path
	MemoryMiB int    // 0: the manifest's
	CPUs      int    // 0: 1
	ID        string // of the request, for a repeated one; "": never repeated
	Loadparm  string // entry of the boot menu of a bundle that boots from its disk; "": the default

	Owner     uint32                                // uid of the caller, whose guest it will be
	Admin     bool                                  // the caller administers the node; a tenant may not reach beyond its guests
	Folder    func() (bundle.Folder, error)         // opens Bundle as the caller may; nil: as hostagent may
	Reserve   func(Ask) (release func(), err error) // asks the caller's quota; nil: it has none
	Restart   *store.Restart                        // from RestartPolicy
	Autostart bool
	Order     uint32

	Resources *store.Resources // nil: the node's defaults

	Disks    []store.Disk    // beside the bundle's own, by Path; what is empty has a default, a serial too
	Networks []store.Network // without a MAC: qemu.MAC's of the guest's UUID
}

// record makes the record of a guest to be.
func record(m *bundle.Manifest, r Request) (*store.Guest, error) {
	rec := &store.Guest{
		Name: r.Name, UUID: newUUID(), State: string(Created), ImageID: m.Image.ID, Identity: m.Identity, Image: m.Image.File, Boot: m.Boot, Loadparm: r.Loadparm,
		MemoryMiB: r.MemoryMiB, CPUs: r.CPUs, Request: r.ID, Created: time.Now().UTC(),
		Owner: r.Owner, DiskBytes: partsSize(m),
		Restart: r.Restart, Autostart: r.Autostart, Order: r.Order, Resources: r.Resources,
	}
	if rec.Name == "" {
		rec.Name = m.Name
	}
	if rec.MemoryMiB == 0 {
		rec.MemoryMiB = m.MemoryMiB
	}
	if rec.CPUs == 0 {
		rec.CPUs = 1
	}
	if err := store.CheckName(rec.Name); err != nil {
		return nil, fault.New(fault.BadRequest, "%w", err)
	}
	if rec.MemoryMiB < 64 || rec.MemoryMiB > qemu.MaxMemoryMiB || rec.CPUs < 1 || rec.CPUs > qemu.MaxCPUs {
		return nil, fault.New(fault.BadRequest, "guest %s can't have %d MiB of memory and %d CPUs", rec.Name, rec.MemoryMiB, rec.CPUs)
	}
	if err := checkResources(r.Resources); err != nil {
		return nil, err
	}
	if r.Loadparm != "" && m.Boot != bundle.BootDisk {
		return nil, fault.New(fault.BadRequest, "guest %s does not boot from a disk: it has no boot menu to choose from by a loadparm", rec.Name)
	}
	if err := qemu.CheckLoadparm(r.Loadparm); err != nil {
		return nil, fault.New(fault.BadRequest, "%w", err)
	}
	if store.Reserved(m.Image.File) {
		return nil, fault.New(fault.Bundle, "bundle has a part %s, a name that hostagent needs itself", m.Image.File)
	}
	for _, d := range m.Disks {
		if store.Reserved(d.File) {
			return nil, fault.New(fault.Bundle, "bundle has a part %s, a name that hostagent needs itself", d.File)
		}
		rec.Disks = append(rec.Disks, store.Disk{File: d.File, Serial: d.Serial, ReadOnly: d.ReadOnly})
	}
	return rec, attach(rec, r.Disks, r.Networks)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version 4, RFC 9562
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Bounds of a guest's resources, systemd's.
const (
	maxWeight     = 10_000
	maxCPUPercent = 100 * qemu.MaxCPUs
)

// checkResources refuses what systemd would.
func checkResources(r *store.Resources) error {
	if r != nil && (r.CPUWeight > maxWeight || r.IOWeight > maxWeight || r.CPUPercent > maxCPUPercent) {
		return fault.New(fault.BadRequest, "CPU weight %d, CPU quota %d %% and I/O weight %d: weights are 1 to %d, the quota at most %d %%", r.CPUWeight, r.CPUPercent, r.IOWeight, maxWeight, maxCPUPercent)
	}
	return nil
}
