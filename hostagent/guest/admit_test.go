package guest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// z is a platform with an ultravisor's limits and keys.
type z struct {
	host
	limits platform.Limits
	hashes [][32]byte
}

func (z) Protected() bool                      { return true }
func (p z) Limits() (platform.Limits, error)   { return p.limits, nil }
func (p z) HostKeyHashes() ([][32]byte, error) { return p.hashes, nil }

// want wants an error of a code that says these words, or with "" none.
func want(t *testing.T, what string, err error, code fault.Code, words string) {
	t.Helper()
	switch {
	case code == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case code == "":
	case err == nil || fault.As(err).Code != code || !strings.Contains(err.Error(), words):
		t.Errorf("%s: error %v, want %s about %q", what, err, code, words)
	}
}

func TestFits(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{})
	limits := platform.Limits{MaxCPUs: 16, MaxAddress: 1 << 40}
	f.Capacity = Capacity{MemoryMiB: 3 << 20, Ratio: 0.5, CPUs: 8}
	for _, c := range []struct {
		memory, cpus int
		platform     platform.Platform
		code         fault.Code
		words        string
	}{
		{1 << 20, 8, z{}, "", ""},
		{1<<20 + 1, 8, z{}, fault.TooLarge, "the ultravisor gives a guest 1048576 MiB"},
		{64, 9, z{}, fault.TooLarge, "the node has 8"},
		{64, 9, host{}, "", ""}, // translation runs any number
		{64, 17, host{}, fault.TooLarge, "the ultravisor gives a guest 16"},
	} {
		f.Platform = c.platform
		want(t, fmt.Sprint(c.memory, " MiB, ", c.cpus), f.fits(&store.Guest{Name: "g", MemoryMiB: c.memory, CPUs: c.cpus}, limits), c.code, c.words)
	}
	big := &store.Guest{Name: "g", MemoryMiB: 3<<19 + 1, CPUs: 1}
	want(t, "more than the node", f.fits(big, platform.Limits{}), fault.TooLarge, "the node has 1572864 MiB for guests")
	f.Capacity.Ratio = 0
	want(t, "not counted", f.fits(big, platform.Limits{}), "", "")
}

// Memory that was promised is counted over all running guests, also those that an
// earlier hostagent started, and starts at one time share what is left.
func TestPromisedMemory(t *testing.T) {
	t.Parallel()
	old, idle := stored("old", Ready, 7), stored("idle", Stopped, 0)
	f := fleet(t, &launcher{alive: map[int]*process{7: newProcess(7)}}, old, idle)
	f.Capacity = Capacity{MemoryMiB: 1000, Ratio: 1}
	want(t, "700 beside 256", f.admitStart(&store.Guest{Name: "new", MemoryMiB: 700, CPUs: 1}), "", "")
	want(t, "745 beside 256", f.admitStart(&store.Guest{Name: "new", MemoryMiB: 745, CPUs: 1}), fault.Promised, "744 MiB are left: 1 running guests have 256 of the node's 1000 MiB")
	f.Capacity.Ratio = 2
	want(t, "overcommitted", f.admitStart(&store.Guest{Name: "new", MemoryMiB: 745, CPUs: 1}), "", "")
	f.Platform = z{limits: platform.Limits{MaxGuests: 1}}
	want(t, "one guest at a time", f.admitStart(&store.Guest{Name: "new", MemoryMiB: 64, CPUs: 1}), fault.Promised, "1 guests run, as many as the ultravisor takes")
}

// Of starts at one time exactly as many are admitted as there is room for.
func TestStartsAtOneTime(t *testing.T) {
	t.Parallel()
	var recs []*store.Guest
	for i := range 20 {
		rec := stored(fmt.Sprintf("g%d", i), Starting, 0)
		recs = append(recs, rec)
	}
	f := fleet(t, &launcher{})
	for _, rec := range recs { // as Start leaves them
		f.guests[rec.Name] = newGuest(f, *rec)
	}
	f.Capacity = Capacity{MemoryMiB: 7*256 + 255, Ratio: 1}
	var wait sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for _, rec := range recs {
		wait.Go(func() {
			if err := f.admitStart(rec); err == nil {
				mu.Lock()
				admitted++
				mu.Unlock()
			} else if fault.As(err).Code != fault.Promised {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if admitted != 7 {
		t.Errorf("%d of 20 were admitted, there is room for 7", admitted)
	}
}

func TestDiskInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"shared.img", "other.img"} {
		if err := os.WriteFile(path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("shared.img", path("soft.img")), os.Link(path("shared.img"), path("hard.img"))); err != nil {
		t.Fatal(err)
	}
	user := stored("user", Ready, 7)
	user.Disks = []store.Disk{{File: "root.img", Serial: "root"}, {Path: path("shared.img"), Serial: "d"}}
	idle := stored("idle", Stopped, 0)
	idle.Disks = []store.Disk{{Path: path("other.img"), Serial: "d"}}
	reader := stored("reader", Ready, 8)
	reader.Disks = []store.Disk{{Path: path("ro.img"), Serial: "d", ReadOnly: true}}
	if err := os.WriteFile(path("ro.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := fleet(t, &launcher{alive: map[int]*process{7: newProcess(7), 8: newProcess(8)}}, user, idle, reader)
	root := filepath.Join(f.Store.Dir("user"), "root.img")
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		disks []store.Disk
		code  fault.Code
		words string
	}{
		{"free", []store.Disk{{Path: path("other.img")}}, "", ""},
		{"same path", []store.Disk{{Path: path("shared.img")}}, fault.DiskInUse, "guest new can't have disk " + path("shared.img") + ": guest user uses it"},
		{"symbolic link", []store.Disk{{Path: path("soft.img")}}, fault.DiskInUse, "guest user uses it as " + path("shared.img")},
		{"hard link", []store.Disk{{Path: path("hard.img")}}, fault.DiskInUse, "guest user uses it as"},
		{"to read what another writes", []store.Disk{{Path: path("shared.img"), ReadOnly: true}}, fault.DiskInUse, "guest user"},
		{"another guest's own disk", []store.Disk{{Path: root}}, fault.DiskInUse, "guest user"},
		{"both read", []store.Disk{{Path: path("ro.img"), ReadOnly: true}}, "", ""},
		{"to write what another reads", []store.Disk{{Path: path("ro.img")}}, fault.DiskInUse, "guest reader"},
		{"twice in one guest", []store.Disk{{Path: path("other.img")}, {Path: path("other.img")}}, fault.DiskInUse, "one disk twice"},
		{"not there", []store.Disk{{Path: path("none.img")}}, "", ""},
	} {
		want(t, c.name, f.admitStart(&store.Guest{Name: "new", MemoryMiB: 64, CPUs: 1, Disks: c.disks}), c.code, c.words)
	}
	// What a guest used is free once it has ended.
	g, err := f.Get("user")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.move(Stopped, nil); err != nil {
		t.Fatal(err)
	}
	want(t, "after its end", f.admitStart(&store.Guest{Name: "new", MemoryMiB: 64, CPUs: 1, Disks: []store.Disk{{Path: path("hard.img")}}}), "", "")
}

// A block device is known by its number, whatever node leads to it.
func TestBlockDeviceInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	for path, minor := range map[string]uint32{a: 250, b: 250, c: 251} {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, minor))); err != nil {
			t.Skipf("make a device node: %v", err)
		}
	}
	claims := make(map[string]claim)
	for _, path := range []string{a, b, c} {
		cl, err := claimOf(path, false)
		if err != nil {
			t.Fatal(err)
		}
		claims[path] = cl
	}
	want(t, "two nodes", conflict("g", []claim{claims[b]}, "h", []claim{claims[a]}), fault.DiskInUse, "uses it as "+a)
	want(t, "two devices", conflict("g", []claim{claims[c]}, "h", []claim{claims[a]}), "", "")
}

// A disk and its partitions exclude each other, its partitions do not.
func TestPartitionInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"disk/dev": "94:0\n", "disk/part1/dev": "94:1\n", "disk/part1/partition": "1\n", "disk/part2/dev": "94:2\n", "disk/part2/partition": "2\n",
		"other/dev": "94:4\n", "odd/dev": "x\n", "odd/part1/partition": "1\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	links := filepath.Join(dir, "block")
	if err := os.Mkdir(links, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"94:0": "disk", "94:1": "disk/part1", "94:2": "disk/part2", "94:4": "other", "94:9": "odd/part1"} {
		if err := os.Symlink(filepath.Join(dir, to), filepath.Join(links, link)); err != nil {
			t.Fatal(err)
		}
	}
	device := func(minor uint32) claim {
		dev := unix.Mkdev(94, minor)
		return claim{block: true, dev: dev, whole: wholeOf(links, dev), path: fmt.Sprint("/dev/dasd", minor)}
	}
	for _, c := range []struct {
		a, b uint32
		code fault.Code
	}{
		{0, 1, fault.DiskInUse}, {2, 0, fault.DiskInUse}, {1, 1, fault.DiskInUse},
		{1, 2, ""}, {0, 4, ""}, {4, 1, ""}, {9, 0, ""}, {7, 0, ""},
	} {
		want(t, fmt.Sprint(c.a, " beside ", c.b), conflict("g", []claim{device(c.a)}, "h", []claim{device(c.b)}), c.code, "guest h uses it")
	}
}

// seal makes an image with control flags for a new host, whose hash it returns.
func seal(t *testing.T, path string, flags seimage.Flags) [32]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	kernel := make([]byte, 0x13000)
	copy(kernel[0x10008:], "S390EP")
	kernel[0x10436] = 0x03 // longest command line
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_, err = seimage.Create(t.Context(), out, seimage.Spec{
		Kernel:  seimage.Source{R: bytes.NewReader(kernel), Size: int64(len(kernel))},
		Cmdline: []byte("quiet"), Hosts: []*ecdsa.PublicKey{&key.PublicKey}, PCF: &flags,
		CommKey: secret.Bytes(bytes.Repeat([]byte{1}, seimage.CommKeySize)),
	})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := hostkey.Hash(pub)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// What an ultravisor would refuse is refused before launch, also when the node
// has changed since the guest was created.
func TestImageAgain(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{}, stored("g", Stopped, 0))
	path := filepath.Join(f.Store.Dir("g"), "boot.seimg")
	hash := seal(t, path, seimage.DefaultFlags|seimage.PCKMOHMAC)
	rec := stored("g", Stopped, 0)
	rec.Image = "boot.seimg"
	// The flags of a real machine; it lacks that for HMAC keys.
	limits := platform.Limits{HeaderVersions: 1 << 63, HeaderFlags: 0x300050e3}
	all := platform.Limits{HeaderVersions: 1 << 63, HeaderFlags: 0x300050f3}
	for _, c := range []struct {
		name  string
		p     z
		code  fault.Code
		words string
	}{
		{"its host", z{limits: all, hashes: [][32]byte{{1}, hash}}, "", ""},
		{"its host, limits unknown", z{hashes: [][32]byte{hash}}, "", ""},
		{"another host", z{limits: all, hashes: [][32]byte{{1}}}, fault.NoSlot, fmt.Sprintf("%x", hash[:4])},
		{"flags", z{limits: limits, hashes: [][32]byte{hash}}, fault.ImageKind, "pckmo-hmac"},
		{"version", z{limits: platform.Limits{HeaderVersions: 1 << 62}, hashes: [][32]byte{hash}}, fault.ImageKind, "0x100"},
	} {
		f.Platform = c.p
		want(t, c.name, f.admitStart(rec), c.code, c.words)
	}
	if err := os.Truncate(path, 0x15000); err != nil {
		t.Fatal(err)
	}
	f.Platform = z{hashes: [][32]byte{hash}}
	want(t, "truncated", f.admitStart(rec), fault.Bundle, "")
	rec.Boot = "disk"
	want(t, "a disk is the guest's own", f.admitStart(rec), "", "")
}

// What an admission costs beside 1,000 running guests.
func BenchmarkAdmitStart(b *testing.B) {
	st, err := store.Open(filepath.Join(b.TempDir(), "state"))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	f := &Fleet{Options: Options{Store: st, Platform: host{}, Capacity: Capacity{MemoryMiB: 1 << 30, Ratio: 1}}, guests: make(map[string]*Guest)}
	for i := range 1000 {
		rec := stored(fmt.Sprintf("g%d", i), Ready, 0)
		rec.Disks = []store.Disk{{File: "root.img"}}
		dir := st.Dir(rec.Name)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "root.img"), nil, 0o600)); err != nil {
			b.Fatal(err)
		}
		f.guests[rec.Name] = newGuest(f, *rec)
	}
	rec := stored("new", Starting, 0)
	for b.Loop() {
		if err := f.admitStart(rec); err != nil {
			b.Fatal(err)
		}
	}
}
