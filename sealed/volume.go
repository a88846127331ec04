package sealed

import (
	"bytes"
	"slices"
	"strings"

	"github.com/secexec/secexec/secret"
)

// Mode is how a volume is protected.
type Mode uint8

// Modes of volumes.
const (
	// Crypt is dm-crypt alone, AES-256-XTS: nobody reads it. Changed and
	// rolled-back sectors are not detected.
	Crypt Mode = 0
	// Integrity is dm-crypt with AES-256-XTS and HMAC-SHA-256 over dm-integrity:
	// a sector changed by anybody gives an I/O error. Rolling back a sector to
	// what it once held at its place is not detected.
	Integrity Mode = 1
	// Verity is read-only dm-verity inside of dm-crypt: nothing but what was
	// sealed is ever read.
	Verity Mode = 2
)

// Sizes of keys and tags, in bytes.
const (
	KeySize          = 64           // AES-256-XTS: two 256-bit keys
	IntegrityKeySize = KeySize + 32 // and HMAC-SHA-256's
	TagSize          = 32           // of a sector's tag in mode Integrity
)

// dm-crypt's names of the ciphers: the only ones in use.
const (
	Cipher          = "aes-xts-plain64"
	IntegrityCipher = "capi:authenc(hmac(sha256),xts(aes))-plain64"
)

// Volume is an encrypted volume as device-mapper gets to see it. It is found by
// either its disk's serial number or its partition's unique number: a hint
// where to look, never a reason to trust what is there.
type Volume struct {
	ID        [IDSize]byte // LUKS2 UUID, as bytes; the root's identity in readiness reports
	Serial    string       // virtio-blk serial of the disk; "" with PartUUID
	PartUUID  [IDSize]byte // the partition's GUID, as bytes in the order of its text; zero with Serial
	Mode      Mode
	Fresh     bool         // its key is made at each boot, and what was in it is lost; only with Crypt, never a root
	Key       secret.Bytes // KeySize bytes, IntegrityKeySize with Integrity, none with Fresh
	Offset    uint64       // bytes from the disk's or partition's start to the payload, multiple of SectorSize
	Size      uint64       // bytes of payload, multiple of SectorSize; the least, with Grow
	Grow      bool         // the volume goes on to the disk's or partition's end, and its file system grows; only with Crypt, not with Fresh
	FSType    string       // one of FSTypes; "" for swap
	Template  string       // of a fresh volume: base name under /templates of its empty file system; "" for swap
	ReadOnly  bool         // mounted, and mapped, read-only
	Integrity *IntegrityLayout
	Verity    *VerityTree
}

// IntegrityLayout is what dm-integrity's superblock says, so that the guest
// need not believe it.
type IntegrityLayout struct {
	Provided          uint64 // bytes of data that the device gives, multiple of SectorSize, less than Size
	JournalSectors    uint32 // of 512 bytes
	InterleaveSectors uint32 // of 512 bytes, a power of two
}

// VerityTree is dm-verity's hash tree, format 1 with SHA-256 over blocks of
// SectorSize. Data comes first in the payload, the tree from HashOffset on.
type VerityTree struct {
	RootHash   [32]byte
	Salt       [32]byte
	DataSize   uint64 // bytes, multiple of SectorSize
	HashOffset uint64 // bytes from the payload's start, multiple of SectorSize, DataSize or more
}

// DataVolume is a volume that guestinit mounts beneath the root.
type DataVolume struct {
	Volume
	Mount string // absolute path in the root of the mount point
}

// Overlay is a writable layer over a read-only root (overlayfs).
type Overlay struct {
	MemoryMiB uint32  // of the layer in memory, at most; 0 with Volume
	Volume    *Volume // the layer's volume, with a sealed or a fresh key; nil: in memory
}

// FSTypes are the file systems that a volume may hold. erofs is read-only.
var FSTypes = []string{"ext4", "xfs", "erofs"}

// notMountable are folders that the kernel's own file systems cover.
var notMountable = []string{"/dev", "/proc", "/run", "/sys"}

func (v *Volume) check(what string) error {
	keySize := KeySize
	switch {
	case v.Fresh:
		keySize = 0
	case v.Mode == Integrity:
		keySize = IntegrityKeySize
	}
	switch {
	case v.ID == [IDSize]byte{}:
		return invalid("%s volume id is zero", what)
	case (v.Serial == "") == (v.PartUUID == [IDSize]byte{}):
		return invalid("%s is found by either a serial number or a partition", what)
	case v.Serial != "" && (!plainName(v.Serial) || len(v.Serial) > MaxSerial):
		return invalid("%s serial %q is not 1 to %d characters of a-z, A-Z, 0-9, '-', '_', '.'", what, v.Serial, MaxSerial)
	case v.Mode > Verity:
		return invalid("%s mode %d is none of 0, 1, 2", what, v.Mode)
	case (v.Fresh || v.Grow) && v.Mode != Crypt:
		return invalid("%s: only a volume of mode crypt has a fresh key or grows", what)
	case v.Grow && (v.ReadOnly || v.Fresh):
		return invalid("%s can't grow read-only, or with a fresh key", what)
	case len(v.Key) != keySize:
		return invalid("%s key has %d bytes, wants %d", what, len(v.Key), keySize)
	case v.Offset%SectorSize != 0 || v.Size%SectorSize != 0 || v.Size == 0 || v.Offset+v.Size < v.Offset || v.Offset+v.Size > 1<<62:
		return invalid("%s payload at %d of %d bytes is not a range of %d-byte sectors", what, v.Offset, v.Size, SectorSize)
	case v.FSType != "" && !slices.Contains(FSTypes, v.FSType):
		return invalid("%s file system %q is none of %s", what, v.FSType, strings.Join(FSTypes, ", "))
	case (v.FSType == "erofs" || v.Mode == Verity) && !v.ReadOnly:
		return invalid("%s is written to, with erofs or dm-verity", what)
	case (v.Template != "") != (v.Fresh && v.FSType != "") || v.Template != "" && !plainName(v.Template):
		return invalid("%s has the template %q: a fresh volume with a file system has one, others have none", what, v.Template)
	case v.Fresh && v.ReadOnly:
		return invalid("%s with a fresh key is read-only", what)
	}
	if err := v.checkIntegrity(what); err != nil {
		return err
	}
	return v.checkVerity(what)
}

func (v *Volume) checkIntegrity(what string) error {
	l := v.Integrity
	switch {
	case (l != nil) != (v.Mode == Integrity):
		return invalid("%s has an integrity layout exactly in mode integrity", what)
	case l == nil:
	case l.Provided == 0 || l.Provided%SectorSize != 0 || l.Provided >= v.Size:
		return invalid("%s gives %d bytes of data in %d", what, l.Provided, v.Size)
	case l.JournalSectors == 0 || l.InterleaveSectors < SectorSize/512 || l.InterleaveSectors&(l.InterleaveSectors-1) != 0:
		return invalid("%s has %d journal sectors, interleaved by %d", what, l.JournalSectors, l.InterleaveSectors)
	}
	return nil
}

func (v *Volume) checkVerity(what string) error {
	t := v.Verity
	switch {
	case (t != nil) != (v.Mode == Verity):
		return invalid("%s has a hash tree exactly in mode verity", what)
	case t == nil:
	case t.DataSize == 0 || t.DataSize%SectorSize != 0 || t.HashOffset%SectorSize != 0 || t.HashOffset < t.DataSize || t.HashOffset >= v.Size:
		return invalid("%s has %d bytes of data and a hash tree at %d in %d", what, t.DataSize, t.HashOffset, v.Size)
	}
	return nil
}

// checkVolumes wants that volumes share nothing, and that mount points come in
// an order in which none hides another.
func (r *Record) checkVolumes() error {
	if len(r.Data) > MaxData {
		return invalid("%d data volumes, at most %d", len(r.Data), MaxData)
	}
	switch {
	case r.Root.Fresh:
		return invalid("root has no sealed key")
	case r.Swap != nil && (!r.Swap.Fresh || r.Swap.FSType != "" || r.Swap.Grow):
		return invalid("swap has a fresh key, no file system and a size of its own")
	}
	names := map[*Volume]string{&r.Root: "root"}
	if o := r.Overlay; o != nil {
		if err := o.check(r.Root.ReadOnly); err != nil {
			return err
		}
		names[o.Volume] = "overlay volume"
	}
	for i := range r.Data {
		d := &r.Data[i]
		names[&d.Volume] = "data volume " + d.Mount
		if err := CheckMount(d.Mount); err != nil {
			return err
		}
		for j := range r.Data[:i] {
			if r.Data[j].Mount == d.Mount || beneath(r.Data[j].Mount, d.Mount) {
				return invalid("mount point %s would hide %s", d.Mount, r.Data[j].Mount)
			}
		}
	}
	names[r.Swap] = "swap"
	all := r.volumes()
	for i, v := range all {
		if err := v.check(names[v]); err != nil {
			return err
		}
		if v != r.Swap && v.FSType == "" {
			return invalid("%s has no file system", names[v])
		}
		for _, o := range all[:i] {
			if o.ID == v.ID || o.Serial == v.Serial && o.PartUUID == v.PartUUID || len(v.Key) > 0 && bytes.Equal(o.Key, v.Key) {
				return invalid("%s shares its id, its place or its key with %s", names[v], names[o])
			}
		}
	}
	return nil
}

func (o *Overlay) check(readOnly bool) error {
	switch {
	case !readOnly:
		return invalid("overlay over a root that is written to")
	case (o.MemoryMiB == 0) == (o.Volume == nil):
		return invalid("overlay is either in memory or on a volume")
	case o.Volume != nil && o.Volume.ReadOnly:
		return invalid("overlay volume is read-only")
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

func (v *Volume) fields(c *codec) {
	c.fixed(v.ID[:])
	way := uint8(bySerial)
	if v.Serial == "" {
		way = byPartition
	}
	c.u8(&way)
	switch way {
	case bySerial:
		c.path(&v.Serial)
	case byPartition:
		c.fixed(v.PartUUID[:])
	default:
		c.fail("volume is found by way %d, wants 0 or 1", way)
	}
	c.u8((*uint8)(&v.Mode))
	c.flag(&v.Fresh)
	switch {
	case v.Fresh:
	case v.Mode == Integrity:
		c.secret(&v.Key, IntegrityKeySize)
	default:
		c.secret(&v.Key, KeySize)
	}
	c.u64(&v.Offset)
	c.u64(&v.Size)
	c.flag(&v.Grow)
	c.path(&v.FSType)
	c.path(&v.Template)
	c.flag(&v.ReadOnly)
	maybe(c, &v.Integrity, func(c *codec, l *IntegrityLayout) {
		c.u64(&l.Provided)
		c.u32(&l.JournalSectors)
		c.u32(&l.InterleaveSectors)
	})
	maybe(c, &v.Verity, func(c *codec, t *VerityTree) {
		c.fixed(t.RootHash[:])
		c.fixed(t.Salt[:])
		c.u64(&t.DataSize)
		c.u64(&t.HashOffset)
	})
}

func (o *Overlay) fields(c *codec) {
	c.u32(&o.MemoryMiB)
	maybe(c, &o.Volume, func(c *codec, v *Volume) { v.fields(c) })
}
