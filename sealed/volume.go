package sealed

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/secexec/secexec/secret"
)

// Volume is an encrypted volume as dm-crypt gets to see it. It is found by
// either its disk's serial number or its partition's unique number: a hint
// where to look, never a reason to trust what is there.
type Volume struct {
	ID       [IDSize]byte // LUKS2 UUID, as bytes; the root's identity in readiness reports
	Serial   string       // virtio-blk serial of the disk; "" with PartUUID
	PartUUID [IDSize]byte // the partition's GUID, as bytes in the order of its text; zero with Serial
	Key      secret.Bytes // KeySize bytes
	Cipher   string       // dm-crypt's name; only "aes-xts-plain64"
	Offset   uint64       // bytes from the disk's or partition's start to the payload, multiple of SectorSize
	Size     uint64       // bytes of payload, multiple of SectorSize
	FSType   string       // one of FSTypes
	ReadOnly bool         // mounted, and mapped, read-only
}

// DataVolume is a volume that guestinit mounts beneath the root.
type DataVolume struct {
	Volume
	Mount string // absolute path in the root of the mount point
}

// Cipher is the one cipher in use.
const Cipher = "aes-xts-plain64"

// FSTypes are the file systems that a volume may hold. erofs is read-only.
var FSTypes = []string{"ext4", "xfs", "erofs"}

// notMountable are folders that the kernel's own file systems cover.
var notMountable = []string{"/dev", "/proc", "/run", "/sys"}

func (v *Volume) check(what string) error {
	switch {
	case v.ID == [IDSize]byte{}:
		return invalid("%s volume id is zero", what)
	case (v.Serial == "") == (v.PartUUID == [IDSize]byte{}):
		return invalid("%s is found by either a serial number or a partition", what)
	case v.Serial != "" && (!plainName(v.Serial) || len(v.Serial) > MaxSerial):
		return invalid("%s serial %q is not 1 to %d characters of a-z, A-Z, 0-9, '-', '_', '.'", what, v.Serial, MaxSerial)
	case len(v.Key) != KeySize:
		return invalid("%s key has %d bytes, wants %d", what, len(v.Key), KeySize)
	case v.Cipher != Cipher:
		return invalid("cipher %q is not %s", v.Cipher, Cipher)
	case v.Offset%SectorSize != 0 || v.Size%SectorSize != 0 || v.Size == 0 || v.Offset+v.Size < v.Offset || v.Offset+v.Size > 1<<62:
		return invalid("%s payload at %d of %d bytes is not a range of %d-byte sectors", what, v.Offset, v.Size, SectorSize)
	case !slices.Contains(FSTypes, v.FSType):
		return invalid("%s file system %q is none of %s", what, v.FSType, strings.Join(FSTypes, ", "))
	case v.FSType == "erofs" && !v.ReadOnly:
		return invalid("%s file system erofs is read-only", what)
	}
	return nil
}

// checkData wants that volumes share nothing, and that mount points come in an
// order in which none hides another.
func (r *Record) checkData() error {
	if len(r.Data) > MaxData {
		return invalid("%d data volumes, at most %d", len(r.Data), MaxData)
	}
	for i := range r.Data {
		d := &r.Data[i]
		if err := d.check("data volume " + d.Mount); err != nil {
			return err
		}
		if err := CheckMount(d.Mount); err != nil {
			return err
		}
		others := []*Volume{&r.Root}
		for j := range r.Data[:i] {
			others = append(others, &r.Data[j].Volume)
			if r.Data[j].Mount == d.Mount || beneath(r.Data[j].Mount, d.Mount) {
				return invalid("mount point %s would hide %s", d.Mount, r.Data[j].Mount)
			}
		}
		for _, o := range others {
			if o.ID == d.ID || o.Serial == d.Serial && o.PartUUID == d.PartUUID || bytes.Equal(o.Key, d.Key) {
				return invalid("data volume %s shares its id, its place or its key with another", d.Mount)
			}
		}
	}
	return nil
}

// CheckMount refuses what may not be a data volume's mount point.
func CheckMount(path string) error {
	if !cleanAbs(path) {
		return invalid("mount point %q is not a clean absolute path of at most %d bytes", path, MaxPath)
	}
	for _, dir := range notMountable {
		if path == dir || beneath(path, dir) {
			return invalid("mount point %s lies in %s, which is the kernel's", path, dir)
		}
	}
	return nil
}

// beneath tells whether a path lies in a folder.
func beneath(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// Ways to find a volume.
const (
	bySerial    = 0
	byPartition = 1
)

func appendVolume(b []byte, v *Volume) []byte {
	b = append(b, v.ID[:]...)
	if v.Serial != "" {
		b = appendString(append(b, bySerial), v.Serial)
	} else {
		b = append(append(b, byPartition), v.PartUUID[:]...)
	}
	b = append(b, v.Key...)
	b = appendString(b, v.Cipher)
	b = binary.BigEndian.AppendUint64(b, v.Offset)
	b = binary.BigEndian.AppendUint64(b, v.Size)
	b = appendString(b, v.FSType)
	return appendFlag(b, v.ReadOnly)
}

func (d *decoder) volume(v *Volume) {
	copy(v.ID[:], d.take(IDSize))
	if d.flag() {
		copy(v.PartUUID[:], d.take(IDSize))
	} else {
		v.Serial = d.string()
	}
	v.Key = bytes.Clone(d.take(KeySize))
	v.Cipher = d.string()
	v.Offset = binary.BigEndian.Uint64(d.take(8))
	v.Size = binary.BigEndian.Uint64(d.take(8))
	v.FSType = d.string()
	v.ReadOnly = d.flag()
}
