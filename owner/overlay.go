package owner

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secexec/secexec/sealed"
)

// OverlaySerial is the serial number of the disk with the writable layer.
const OverlaySerial = "overlay"

// Overlay is a writable layer over a read-only root.
type Overlay struct {
	Volume bool        // on a disk of its own, where it stays; else in memory, and gone after each boot
	Size   int64       // bytes; in memory at most so many, 0: half of the guest's memory
	Mode   sealed.Mode // of the disk: Crypt or Integrity
	Fresh  bool        // the disk's key is made at each boot, which starts with an empty layer; only with Crypt
}

// ParseOverlay parses what a plan says of the layer over a root of a mode: none,
// memory or volume, its size, the volume's mode and its key, "" each for the
// default. It returns nil for none.
func ParseOverlay(kind string, size int64, mode, key string, root sealed.Mode) (o *Overlay, err error) {
	switch kind {
	case "", "none":
		if size != 0 || mode != "" || key != "" {
			return nil, errors.New("overlay has a size, mode or key and is none: make it memory or volume")
		}
		return nil, nil
	case "memory", "volume":
		o = &Overlay{Volume: kind == "volume", Size: size, Fresh: key == "fresh"}
	default:
		return nil, fmt.Errorf("overlay %q is none of none, memory and volume", kind)
	}
	if key != "" && key != "sealed" && key != "fresh" {
		return nil, fmt.Errorf("overlay key %q is neither sealed nor fresh", key)
	}
	if mode == "" && o.Volume && !o.Fresh && root == sealed.Verity {
		o.Mode = sealed.Integrity // what is over such a root should not be weaker than need be
	} else {
		o.Mode, err = ParseMode(mode)
	}
	return o, err
}

// Limits tell what a layer keeps, and how it is protected.
func (o *Overlay) Limits() string {
	if !o.Volume {
		return "in memory: what is written is gone after each boot"
	}
	if o.Fresh {
		return "on a volume with a key made at each boot: what is written is gone after it. " + ModeLimits(o.Mode)
	}
	return "on a volume. " + ModeLimits(o.Mode)
}

// overlayMiB is the most that a layer in memory takes.
func (p *Plan) overlayMiB() int64 {
	if p.Overlay.Size == 0 {
		return int64(p.MemoryMiB) / 2
	}
	return p.Overlay.Size / mebi
}

// mountPoints are the folders that a root must have in which none can be made.
func (p *Plan) mountPoints() (all []string) {
	if p.Overlay != nil || !p.Root.readOnly() {
		return nil
	}
	all = []string{"/dev", "/proc", "/run", "/sys"}
	for _, v := range p.Volumes {
		if !slices.ContainsFunc(p.Volumes, func(o Volume) bool { return strings.HasPrefix(v.Mount, o.Mount+"/") }) {
			all = append(all, v.Mount) // the others are in a volume
		}
	}
	return all
}

// checkOverlay refuses a layer that can't be made, or has no use.
func (p *Plan) checkOverlay() error {
	o := p.Overlay
	switch {
	case o == nil:
		return nil
	case !p.Root.readOnly():
		return errors.New("plan overlay: the root is written to itself: give it mode verity, or make it read-only")
	case o.Size%mebi != 0 || o.Size < 0:
		return fmt.Errorf("plan overlay: size %d is no multiple of 1 MiB", o.Size)
	case o.Volume && o.Size == 0:
		return errors.New("plan overlay: the volume has no size: say overlay_size")
	case o.Volume && o.Mode != sealed.Crypt && o.Mode != sealed.Integrity:
		return errors.New("plan overlay: the volume is written to: give it mode crypt or crypt-integrity")
	case o.Fresh && (!o.Volume || o.Mode != sealed.Crypt || o.Size < 4*mebi):
		return errors.New("plan overlay: a fresh key is for a volume of mode crypt and 4 MiB or more")
	case !o.Volume && o.Mode != sealed.Crypt:
		return errors.New("plan overlay: a layer in memory has no mode: that is for a volume")
	case !o.Volume && p.overlayMiB() >= int64(p.MemoryMiB):
		return fmt.Errorf("plan overlay: %d MiB in a guest with %d MiB of memory", p.overlayMiB(), p.MemoryMiB)
	}
	return nil
}

// disk is the layer's disk.
func (o *Overlay) disk() *disk {
	return &disk{name: OverlaySerial, fresh: o.Fresh, fs: FileSystem{Size: o.Size, Mode: o.Mode}}
}

// layer tells the layer's disk from data volumes, which may be called so.
func (d *disk) layer() bool { return d.name == OverlaySerial && d.mount == "" }

// readOnly tells whether a file system is known to be one that is never written
// to. A disk image may turn out to be an erofs, too.
func (r *FileSystem) readOnly() bool {
	return r.Mode == sealed.Verity || r.ReadOnly || r.FSType == "erofs"
}

// overlay is what the record says of the layer; disks hold its disk.
func (p *Plan) overlay(disks []*disk) *sealed.Overlay {
	if p.Overlay == nil {
		return nil
	}
	for _, d := range disks {
		if d.layer() {
			v := d.volume()
			return &sealed.Overlay{Volume: &v}
		}
	}
	return &sealed.Overlay{MemoryMiB: uint32(p.overlayMiB())}
}
