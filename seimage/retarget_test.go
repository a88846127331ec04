package seimage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/seimage/bootloader"
)

var headerKey = filled(32, 9)

func hashOf(t testing.TB, key *ecdsa.PublicKey) [32]byte {
	t.Helper()
	pub, err := key.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := hostkey.Hash(pub)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// privateHost is the private half of knownHost.
func privateHost(t testing.TB, b byte) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.P521().NewPrivateKey(append([]byte{0, 1}, bytes.Repeat([]byte{b}, 64)...))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// target makes an image for known hosts.
func target(t testing.TB, hosts ...byte) []byte {
	s := spec(t)
	s.HeaderKey, s.Hosts = headerKey, nil
	for _, b := range hosts {
		s.Hosts = append(s.Hosts, knownHost(t, b))
	}
	return seal(t, s)
}

// disk is a file whose writes reach the platter at Sync.
type disk struct {
	cached, durable []byte
	pending         []write
	left            int // operations until it fails; negative: never
	syncs           int
}

type write struct {
	at int64
	b  []byte
}

var errCut = errors.New("cut off")

func newDisk(b []byte) *disk {
	return &disk{cached: bytes.Clone(b), durable: bytes.Clone(b), left: -1}
}

func (d *disk) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(d.cached).ReadAt(b, at)
}

func (d *disk) op() error {
	if d.left == 0 {
		return errCut
	}
	d.left--
	return nil
}

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	err := d.op()
	if err != nil { // a kill between two pages of the cache
		b = b[:min(int64(len(b)), PageSize-at%PageSize)]
	}
	d.pending = append(d.pending, write{at, bytes.Clone(b)})
	d.cached = apply(d.cached, at, b)
	return len(b), err
}

func (d *disk) Truncate(size int64) error {
	if err := d.op(); err != nil {
		return err
	}
	d.cached = d.cached[:size]
	return nil
}

func (d *disk) Sync() error {
	if err := d.op(); err != nil {
		return err
	}
	d.syncs++
	d.durable, d.pending = bytes.Clone(d.cached), nil
	return nil
}

func apply(b []byte, at int64, data []byte) []byte {
	if need := int(at) + len(data) - len(b); need > 0 {
		b = append(b, make([]byte, need)...)
	}
	copy(b[at:], data)
	return b
}

// afterPowerLoss is the platter with any of the sectors written since the last Sync.
func (d *disk) afterPowerLoss(rng *rand.Rand) []byte {
	b := bytes.Clone(d.durable)
	for _, w := range d.pending {
		for at := w.at; at < w.at+int64(len(w.b)); {
			n := min(512-at%512, w.at+int64(len(w.b))-at)
			if rng.IntN(2) == 0 {
				b = apply(b, at, w.b[at-w.at:at-w.at+n])
			}
			at += n
		}
	}
	return b
}

// slotsOf returns the hosts of an image as its boot loader sees it, after
// checking that tools see a whole header too.
func slotsOf(t *testing.T, b []byte) (hashes [][32]byte) {
	t.Helper()
	args := Stage3aAddr + bootloader.Stage3aSize() - bootloader.Stage3aArgsSize
	at := uint64(args) + binary.BigEndian.Uint64(b[args:])
	loaded, err := ParseHeader(b[at:])
	if err != nil || uint64(loaded.Size()) != binary.BigEndian.Uint64(b[args+8:]) {
		t.Fatalf("the boot loader finds no header at 0x%x: %v", at, err)
	}
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Header{img.Header, loaded} {
		s, err := h.Open(headerKey)
		if err != nil {
			t.Fatal(err)
		}
		s.Wipe()
	}
	for _, s := range loaded.Slots {
		hashes = append(hashes, s.HostHash)
	}
	return hashes
}

func mustRetarget(t *testing.T, b []byte, change Slots) []byte {
	t.Helper()
	d := newDisk(b)
	h, err := Retarget(d, int64(len(b)), headerKey, change)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Open(d, int64(len(d.cached)))
	if err != nil || !bytes.Equal(img.Header.Marshal(), h.Marshal()) {
		t.Fatalf("what was returned is not what was written: %v", err)
	}
	if !bytes.Equal(d.cached, d.durable) {
		t.Error("something is not on the disk yet")
	}
	return d.cached
}

func TestRetarget(t *testing.T) {
	t.Parallel()
	before := target(t, 1, 2)
	host := map[byte]*ecdsa.PublicKey{}
	hash := map[byte][32]byte{}
	for b := byte(1); b <= 4; b++ {
		host[b] = knownHost(t, b)
		hash[b] = hashOf(t, host[b])
	}
	for name, c := range map[string]struct {
		change Slots
		want   []byte
	}{
		"add":             {Slots{Add: []*ecdsa.PublicKey{host[3]}}, []byte{1, 2, 3}},
		"add again":       {Slots{Add: []*ecdsa.PublicKey{host[2]}}, []byte{1, 2}},
		"remove":          {Slots{Remove: [][32]byte{hash[1]}}, []byte{2}},
		"add and remove":  {Slots{Add: []*ecdsa.PublicKey{host[4]}, Remove: [][32]byte{hash[2]}}, []byte{1, 4}},
		"replace":         {Slots{Add: []*ecdsa.PublicKey{host[3], host[4]}, Replace: true}, []byte{3, 4}},
		"replace, keep 1": {Slots{Add: []*ecdsa.PublicKey{host[3], host[1]}, Replace: true}, []byte{1, 3}},
		"nothing":         {Slots{}, []byte{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := mustRetarget(t, before, c.change)
			was, _ := Open(bytes.NewReader(before), int64(len(before)))
			img, err := Open(bytes.NewReader(after), int64(len(after)))
			if err != nil || len(after) != len(before) || img.HeaderAddr != was.HeaderAddr || img.IPIB.HeaderSize != uint64(img.Header.Size()) {
				t.Fatalf("%+v %v", img, err)
			}
			if img.Header.IV == was.Header.IV {
				t.Error("the IV is the old one")
			}
			first := was.IPIB.Components[0].Addr
			if !bytes.Equal(after[first:was.IPIBAddr], before[first:was.IPIBAddr]) {
				t.Error("a component changed")
			}
			for b := byte(1); b <= 4; b++ {
				key, err := UnwrapSlot(privateHost(t, b), img.Header)
				if in := slices.Contains(c.want, b); in && (err != nil || !bytes.Equal(key, headerKey)) || !in && !errors.Is(err, ErrNoSlotForHost) {
					t.Errorf("host %d: %v", b, err)
				}
			}
			old, err := was.Header.Open(headerKey)
			if err != nil {
				t.Fatal(err)
			}
			now, err := img.Header.Open(headerKey)
			if err != nil || !bytes.Equal(old.ImageKey, now.ImageKey) || !bytes.Equal(old.CommKey, now.CommKey) || old.PSW != now.PSW || old.SCF != now.SCF {
				t.Errorf("secrets changed: %v", err)
			}
		})
	}
}

// Up to all 95 slots and back; the longer header leaves nothing behind.
func TestRetargetFillsAndEmpties(t *testing.T) {
	t.Parallel()
	image := target(t, 1)
	full := mustRetarget(t, image, Slots{Add: hosts(t, MaxSlots-1)})
	if n := len(slotsOf(t, full)); n != MaxSlots {
		t.Errorf("%d slots", n)
	}
	if _, err := Retarget(newDisk(full), int64(len(full)), headerKey, Slots{Add: hosts(t, 1)}); !errors.Is(err, ErrRoom) {
		t.Errorf("one more: %v", err)
	}
	one := mustRetarget(t, full, Slots{Add: []*ecdsa.PublicKey{knownHost(t, 2)}, Replace: true})
	img, err := Open(bytes.NewReader(one), int64(len(one)))
	if err != nil {
		t.Fatal(err)
	}
	if rest := one[img.HeaderAddr+uint64(img.Header.Size()) : img.IPIB.Components[0].Addr]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Error("old key slots are left behind the header")
	}
}

// Another builder's image: a customer key that is lost, room for one page.
func foreign(t *testing.T, n int) []byte {
	t.Helper()
	image := target(t, 1)
	img, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.P521().GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := img.Header
	area, err := h.openArea(headerKey)
	if err != nil {
		t.Fatal(err)
	}
	h.CustomerKey, err = hostkey.Coordinates(key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	h.Slots = nil
	for b := byte(1); b <= byte(n); b++ {
		slot, err := wrapSlot(&customer{key.Bytes()}, privateHost(t, b).PublicKey(), headerKey)
		if err != nil {
			t.Fatal(err)
		}
		h.Slots = append(h.Slots, slot)
	}
	if err := h.sealArea(headerKey, area); err != nil {
		t.Fatal(err)
	}
	copy(image[img.HeaderAddr:], h.Marshal())
	args := Stage3aAddr + bootloader.Stage3aSize() - bootloader.Stage3aArgsSize
	binary.BigEndian.PutUint64(image[args+8:], uint64(h.Size()))
	return image
}

func TestRetargetForeignImage(t *testing.T) {
	t.Parallel()
	image := foreign(t, 2)
	add := Slots{Add: []*ecdsa.PublicKey{knownHost(t, 3)}}
	if _, err := Retarget(newDisk(image), int64(len(image)), headerKey, add); !errors.Is(err, ErrKept) {
		t.Errorf("keep without documents: %v", err)
	}
	add.Remove = [][32]byte{hashOf(t, knownHost(t, 2))}
	add.Add = append(add.Add, knownHost(t, 1))
	after := mustRetarget(t, image, add)
	if want := [][32]byte{hashOf(t, knownHost(t, 1)), hashOf(t, knownHost(t, 3))}; !slices.Equal(slotsOf(t, after), want) {
		t.Error("other key slots")
	}
	// From now on slots are kept without documents.
	after = mustRetarget(t, after, Slots{Add: []*ecdsa.PublicKey{knownHost(t, 4)}})
	if n := len(slotsOf(t, after)); n != 3 {
		t.Errorf("%d slots", n)
	}
}

// A page is room for 44 key slots.
func TestRetargetWithoutRoom(t *testing.T) {
	t.Parallel()
	image := target(t, 1)
	img, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	img.IPIB.Components = append([]IPIBComponent{{1, img.HeaderAddr + PageSize, PageSize}}, img.IPIB.Components...)
	image = apply(image, int64(img.IPIBAddr), img.IPIB.Marshal())
	if _, err := Retarget(newDisk(image), int64(len(image)), headerKey, Slots{Add: hosts(t, 44)}); !errors.Is(err, ErrRoom) {
		t.Errorf("45 slots on one page: %v", err)
	}
	after := mustRetarget(t, image, Slots{Add: hosts(t, 43)})
	if n := len(slotsOf(t, after)); n != 44 {
		t.Errorf("%d slots", n)
	}
}

// The older C tool's images: no metadata, IPIB before the header, whole pages.
func legacy(t testing.TB) []byte {
	t.Helper()
	image := target(t, 1)
	img, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	clear(image[MetadataAddr:][:metadataSize])
	img.IPIB.HeaderAddr = 0
	image = image[:img.IPIBAddr]
	copy(image[legacyIPIBAddr:], img.IPIB.Marshal())
	copy(image[Stage3aAddr:], bootloader.Stage3a(bootloader.Stage3aArgs{HeaderAddr: img.HeaderAddr, HeaderSize: uint64(img.Header.Size()), IPIBAddr: legacyIPIBAddr}))
	return image
}

func TestRetargetLegacyImage(t *testing.T) {
	t.Parallel()
	image := legacy(t)
	after := mustRetarget(t, image, Slots{Add: []*ecdsa.PublicKey{knownHost(t, 2)}})
	img, err := Open(bytes.NewReader(after), int64(len(after)))
	if err != nil || !img.Legacy || len(slotsOf(t, after)) != 2 || len(after) != len(image) || img.IPIB.HeaderAddr != 0 {
		t.Errorf("%+v %v", img, err)
	}
}

func TestRetargetRefusals(t *testing.T) {
	t.Parallel()
	image := target(t, 1)
	one, two := knownHost(t, 1), knownHost(t, 2)
	badArgs := bytes.Clone(image)
	clear(badArgs[Stage3aAddr+bootloader.Stage3aSize()-24:][:24])
	for name, c := range map[string]struct {
		image  []byte
		key    byte
		change Slots
		want   error
	}{
		"other key":        {image, 8, Slots{}, ErrHeaderTag},
		"no slot left":     {image, 9, Slots{Remove: [][32]byte{hashOf(t, one)}}, ErrHosts},
		"replace by none":  {image, 9, Slots{Replace: true}, ErrHosts},
		"remove absent":    {image, 9, Slots{Remove: [][32]byte{hashOf(t, two)}}, ErrAbsent},
		"add and remove":   {image, 9, Slots{Add: []*ecdsa.PublicKey{one}, Remove: [][32]byte{hashOf(t, one)}}, ErrAbsent},
		"replace, remove":  {image, 9, Slots{Add: []*ecdsa.PublicKey{two}, Remove: [][32]byte{hashOf(t, one)}, Replace: true}, ErrAbsent},
		"twice":            {image, 9, Slots{Add: []*ecdsa.PublicKey{two, two}}, ErrHosts},
		"no image":         {testKernel(), 9, Slots{}, ErrNotImage},
		"boot loader":      {badArgs, 9, Slots{}, ErrLoader},
		"bytes behind it":  {append(bytes.Clone(image), "more"...), 9, Slots{}, ErrTrailing},
		"much behind it":   {append(bytes.Clone(image), make([]byte, 1<<20)...), 9, Slots{}, ErrTrailing},
		"cut off":          {image[:MinHeaderAddr], 9, Slots{}, ErrNotImage},
		"many":             {image, 9, Slots{Add: hosts(t, MaxSlots)}, ErrRoom},
		"header elsewhere": {moveHeader(t, image), 9, Slots{}, ErrLoader},
	} {
		d := newDisk(c.image)
		if _, err := Retarget(d, int64(len(c.image)), filled(32, c.key), c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(d.cached, c.image) {
			t.Errorf("%s: refused, and written to", name)
		}
	}
}

// moveHeader lets the boot loader take a header from within a component.
func moveHeader(t testing.TB, image []byte) []byte {
	t.Helper()
	b := bytes.Clone(image)
	args := uint64(Stage3aAddr + bootloader.Stage3aSize() - bootloader.Stage3aArgsSize)
	copy(b[0x17000:], b[MinHeaderAddr:][:PageSize])
	binary.BigEndian.PutUint64(b[args:], 0x17000-args)
	return b
}

// Cut off by a kill or by power loss after each operation, and cut off again
// while the next one tidies, the image always has the old slots or the new.
func TestRetargetCutOff(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	// A header longer than a page, most of it kept: new slots take time.
	image := mustRetarget(t, target(t, 1), Slots{Add: hosts(t, 45)})
	before := slotsOf(t, image)
	change := Slots{Add: []*ecdsa.PublicKey{knownHost(t, 2)}, Remove: [][32]byte{before[0]}}
	after := append(slices.Clone(before[1:]), hashOf(t, knownHost(t, 2)))
	last := Slots{Add: []*ecdsa.PublicKey{knownHost(t, 3)}, Replace: true}
	end := [][32]byte{hashOf(t, knownHost(t, 3))}

	check := func(b []byte, allowed ...[][32]byte) {
		t.Helper()
		if got := slotsOf(t, b); !slices.ContainsFunc(allowed, func(a [][32]byte) bool { return slices.Equal(a, got) }) {
			t.Fatalf("%d slots of another set", len(got))
		}
	}
	cut := func(b []byte, ops int, change Slots) (states [][]byte, done bool) {
		d := newDisk(b)
		d.left = ops
		_, err := Retarget(d, int64(len(b)), headerKey, change)
		if err != nil && !errors.Is(err, errCut) {
			t.Fatalf("after %d operations: %v", ops, err)
		}
		return [][]byte{d.cached, d.afterPowerLoss(rng), d.afterPowerLoss(rng)}, err == nil
	}
	for ops := 0; ; ops++ {
		states, done := cut(image, ops, change)
		for i, b := range states {
			check(b, before, after)
			for again := 0; i == 0; again += 5 {
				states, done := cut(b, again, last)
				for _, b := range states {
					check(b, before, after, end)
				}
				if done {
					break
				}
			}
			whole := mustRetarget(t, b, last)
			check(whole, end)
			if len(whole) != len(image) {
				t.Fatalf("the image has %d bytes after all, not %d", len(whole), len(image))
			}
		}
		if done {
			break
		}
	}
}

func FuzzRetarget(f *testing.F) {
	image := target(f, 1)
	img, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		f.Fatal(err)
	}
	args := Stage3aAddr + bootloader.Stage3aSize() - bootloader.Stage3aArgsSize
	f.Add(image[MetadataAddr:][:metadataSize], image[args:][:24], image[img.IPIBAddr:], []byte{}, false)
	f.Add([]byte{}, image[args:][:24], image[img.IPIBAddr:], []byte("IBMSecEx"), true)
	old := legacy(f)
	host := Slots{Add: []*ecdsa.PublicKey{knownHost(f, 1), knownHost(f, 2)}}
	f.Fuzz(func(t *testing.T, meta, loader, ipib, behind []byte, isOld bool) {
		b, at := bytes.Clone(image), int64(img.IPIBAddr)
		if isOld {
			b, at = bytes.Clone(old), legacyIPIBAddr
		}
		if len(meta) > metadataSize || len(loader) > 24 || len(ipib) > MaxIPIBSize || len(behind) > 3*PageSize {
			t.Skip("longer than its place")
		}
		copy(b[MetadataAddr:], meta)
		copy(b[args:], loader)
		b = append(apply(b, at, ipib), behind...)
		d := newDisk(b)
		h, err := Retarget(d, int64(len(b)), headerKey, host)
		if err != nil {
			if !bytes.Equal(d.cached, b) {
				t.Errorf("refused, and written to: %v", err)
			}
			return
		}
		got, err := Open(d, int64(len(d.cached)))
		if err != nil || !bytes.Equal(got.Header.Marshal(), h.Marshal()) {
			t.Errorf("the image is broken: %v", err)
		}
	})
}
