package move

import (
	"fmt"
	"slices"
	"strings"

	"github.com/secexec/secexec/form"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

// maxDisks bounds what a guest may bring.
const maxDisks = 32

// Files lists the guest's own files, those that travel.
func Files(rec *store.Guest) []string {
	var out []string
	if rec.Image != "" {
		out = append(out, rec.Image)
	}
	for _, d := range rec.Disks {
		if d.Path == "" {
			out = append(out, d.File)
		}
	}
	return out
}

// Travel is a guest's record as it goes to another node: without what belongs
// to this one. Attached disks stay here; those that are not named in without are
// returned, since the guest would miss them.
func Travel(rec *store.Guest, without []string) (out *store.Guest, missed []store.Disk, err error) {
	for _, n := range rec.Networks {
		if n.Kind == "handed" {
			return nil, nil, fault.New(fault.Unfit, "guest %s is on a network that a program of this node hands over at %s, such as a pod's: that program can start it elsewhere anew, but not move it", rec.Name, n.Socket)
		}
	}
	t := own(rec)
	t.Disks = nil
	left := slices.Clone(without)
	for _, d := range rec.Disks {
		i := slices.Index(left, d.Serial)
		switch {
		case d.Path == "" && i >= 0:
			return nil, nil, fault.New(fault.BadRequest, "disk %s came with guest %s's bundle: it can't stay behind", d.Serial, rec.Name)
		case d.Path == "":
			t.Disks = append(t.Disks, d)
		case i >= 0:
			left = slices.Delete(left, i, i+1)
		default:
			missed = append(missed, d)
		}
	}
	if len(left) > 0 {
		return nil, nil, fault.New(fault.BadRequest, "guest %s has no disk %.80q", rec.Name, left[0])
	}
	return t, missed, nil
}

// own is what of a record is the guest's own, wherever it is: all that travels.
func own(rec *store.Guest) *store.Guest {
	return &store.Guest{
		Name: rec.Name, UUID: rec.UUID, State: "created", ImageID: rec.ImageID, Identity: rec.Identity,
		Image: rec.Image, Boot: rec.Boot, Loadparm: rec.Loadparm, Disks: rec.Disks, MemoryMiB: rec.MemoryMiB, CPUs: rec.CPUs,
		Created: rec.Created, Owner: rec.Owner, Restart: rec.Restart, Autostart: rec.Autostart, Order: rec.Order,
		Networks: rec.Networks, Resources: rec.Resources,
	}
}

// Arrival is the record that this node keeps of a guest that another one sent:
// what a guest may bring, each value checked. Its owner stays the same user.
func Arrival(text []byte) (*store.Guest, error) {
	sent, err := store.Decode(text)
	if err != nil {
		return nil, fault.New(fault.Unfit, "read the guest's record: %w", err)
	}
	rec := own(sent)
	if err := check(rec); err != nil {
		return nil, fault.New(fault.Unfit, "guest %s: %w", rec.Name, err)
	}
	return rec, nil
}

func check(rec *store.Guest) error {
	switch {
	case !form.UUID.MatchString(rec.UUID):
		return fmt.Errorf("%.80q is no UUID", rec.UUID)
	case !form.Hex.MatchString(rec.ImageID) || !form.Hex.MatchString(rec.Identity):
		return fmt.Errorf("its image id or identity is not in hex")
	case rec.Boot != "" && rec.Boot != "disk":
		return fmt.Errorf("boot %.80q is not known here", rec.Boot)
	case rec.MemoryMiB < 64 || rec.MemoryMiB > qemu.MaxMemoryMiB || rec.CPUs < 1 || rec.CPUs > qemu.MaxCPUs:
		return fmt.Errorf("it can't have %d MiB of memory and %d CPUs", rec.MemoryMiB, rec.CPUs)
	case len(rec.Disks) == 0 || len(rec.Disks) > maxDisks || len(rec.Networks) > maxDisks:
		return fmt.Errorf("it can't have %d disks and %d networks", len(rec.Disks), len(rec.Networks))
	}
	if err := qemu.CheckLoadparm(rec.Loadparm); err != nil {
		return err
	}
	serials := make(map[string]bool)
	for _, d := range rec.Disks {
		switch {
		case d.Path != "":
			return fmt.Errorf("disk %.80q is one of the other node's: %.200q", d.Serial, d.Path)
		case d.Format != "" && d.Format != "raw": // qcow2 may name other files, which QEMU would open
			return fmt.Errorf("disk %.80q is %.80q, and only raw ones travel", d.Serial, d.Format)
		case !form.Serial.MatchString(d.Serial) || serials[d.Serial]:
			return fmt.Errorf("disk serial %.80q is not a unique name of 1 to 20 characters", d.Serial)
		}
		serials[d.Serial] = true
	}
	files := make(map[string]bool)
	for _, file := range Files(rec) {
		if !form.File.MatchString(file) || store.Reserved(file) || files[file] {
			return fmt.Errorf("file %.80q is not a unique plain name", file)
		}
		files[file] = true
	}
	if !files[rec.Image] {
		return fmt.Errorf("it has no image")
	}
	for _, n := range rec.Networks {
		switch {
		case n.Socket != "":
			return fmt.Errorf("network %.80q is one that a program of the other node hands over", n.Kind)
		case n.MAC != "" && !form.MAC.MatchString(n.MAC):
			return fmt.Errorf("MAC %.80q is not six octets in lower-case hex of one station", n.MAC)
		case n.Kind == "user" && n.Tap == "", n.Kind == "tap" && form.Tap.MatchString(n.Tap) && !strings.Contains(n.Tap, ".."):
		default:
			return fmt.Errorf("network %.80q with interface %.80q is not known here", n.Kind, n.Tap)
		}
	}
	if r := rec.Restart; r != nil && r.Policy != "on-failure" && r.Policy != "always" {
		return fmt.Errorf("restart policy %.80q is not known here", r.Policy)
	}
	return nil
}

// CheckSizes refuses files that are not the record's or have impossible sizes,
// and returns how many bytes they take.
func CheckSizes(rec *store.Guest, sizes map[string]int64) (total int64, err error) {
	files := Files(rec)
	if len(sizes) != len(files) {
		return 0, fault.New(fault.Unfit, "guest %s has %d files, %d are offered", rec.Name, len(files), len(sizes))
	}
	for _, file := range files {
		size, ok := sizes[file]
		if !ok || size <= 0 || size > MaxSize {
			return 0, fault.New(fault.Unfit, "file %s of guest %s can't have %d bytes", file, rec.Name, size)
		}
		total += size
	}
	return total, nil
}
