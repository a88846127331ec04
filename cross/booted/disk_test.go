package booted

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// sealedDisk is a bootable disk with two images, a root and a data volume, and
// what is needed to make bundles with forged copies of it.
type sealedDisk struct {
	path, image string
	table       *bootdisk.Table
	manifest    bundle.Manifest
	identity    string // file of the image that boots by default
	previous    string // and of the one before it
}

var diskOnce struct {
	sync.Once
	disk *sealedDisk
	err  error
}

// disk returns the lab's bootable disk.
func disk(t *testing.T) *sealedDisk {
	t.Helper()
	small(t) // skips, and makes the root's folder
	diskOnce.Do(func() { diskOnce.disk, diskOnce.err = makeDisk(t) })
	if diskOnce.err != nil {
		t.Fatal(diskOnce.err)
	}
	return diskOnce.disk
}

// makeDisk builds the disk and updates it once, so that the image of the first
// build is the second one in its boot menu.
func makeDisk(t *testing.T) (*sealedDisk, error) {
	dir := filepath.Join(lab.dir, "disk-files")
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(data, "content"), []byte("the owner's data\n"), 0o644); err != nil {
		return nil, err
	}
	plan, err := plan("disk", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		return nil, err
	}
	plan.Root.Size = 32 << 20
	plan.Volumes = []owner.Volume{{Name: "srv", Mount: "/srv", FileSystem: owner.FileSystem{Source: data, Size: 32 << 20, ReadOnly: true}}}
	plan.BootableDisk = filepath.Join(dir, "disk.raw")
	plan.Update = true
	for _, word := range []string{"image=previous", "image=current"} {
		plan.Cmdline = owner.DefaultCmdline(3) + " " + word
		if _, err := owner.Build(t.Context(), plan); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(plan.BootableDisk)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d := &sealedDisk{
		path: plan.BootableDisk, image: filepath.Join(plan.Bundle, "boot.seimg"),
		identity: filepath.Join(plan.Secrets, owner.IdentityPublic),
		previous: filepath.Join(plan.Secrets, owner.PreviousDir, owner.IdentityPublic),
	}
	if d.table, err = bootdisk.ReadTable(f, info.Size()); err != nil {
		return nil, err
	}
	b, err := bundle.Open(plan.Bundle)
	if err != nil {
		return nil, err
	}
	d.manifest = b.Manifest
	return d, b.Close()
}

// bundle makes a bundle with a copy of the disk that forge, which may be nil,
// has changed. The manifest fits.
func (d *sealedDisk) bundle(t *testing.T, forge func(disk *os.File) error) string {
	t.Helper()
	dir := t.TempDir()
	m := d.manifest
	part := func(from, name string, change func(*os.File) error) bundle.Part {
		in, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if _, err := io.Copy(out, in); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			if err := change(out); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		p, err := bundle.Describe(t.Context(), name, out)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	m.Image.Part = part(d.image, "boot.seimg", nil)
	m.Disks = []bundle.Disk{{Part: part(d.path, "disk.raw", forge), Serial: "boot", Format: "raw"}}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ManifestFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// One disk boots by stock QEMU's firmware: the default image and, by loadparm,
// the one before it. Root and data are found by their partitions.
func TestBootableDisk(t *testing.T) {
	t.Parallel()
	d := disk(t)
	b := d.bundle(t, nil)
	n := newNode(t)
	g := n.ready(b, "g")
	console := n.says("g", "testinit: waits")
	for _, want := range []string{
		"Using SCSI scheme.", " image=current", "/dev/dm-0 / ext4 rw", "/dev/dm-1 /srv ext4 ro,nodev", "/srv/content: the owner's data",
		"crypt aes-xts-plain64 :64:logon:secexec:root 0 ", "stat /sealed.record: no such file", "boots before: 0",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
	if strings.Contains(console, "logon     secexec:") {
		t.Error("a volume key is still in a keyring")
	}
	if out, err := n.secexec("verify", "g", "--identity", d.identity); err != nil || !strings.Contains(out, "verified: signed by image "+g.ImageId) {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if _, err := n.c.Stop(t.Context(), "g", 30*time.Second); err != nil {
		t.Error(err)
	}

	if out, err := n.secexec("run", b, "--name", "p", "--loadparm", "2", "--identity", d.previous); err != nil {
		t.Fatalf("run: %v\n%s\n%s", err, out, n.console("p"))
	}
	if console := n.says("p", "testinit: waits"); !strings.Contains(console, " image=previous") {
		t.Errorf("loadparm 2 does not boot the previous image:\n%s", console)
	}
	for loadparm, words := range map[string]string{"1,x": "loadparm", "123456789": "loadparm"} {
		if out, err := n.secexec("run", b, "--name", "x", "--loadparm", loadparm); err == nil || !strings.Contains(out, words) {
			t.Errorf("loadparm %q: %v\n%s", loadparm, err, out)
		}
	}
	if _, err := n.c.Create(t.Context(), &hostagentv1.CreateRequest{Bundle: small(t), Name: "y", Loadparm: "1"}); code(err) != "H216" {
		t.Errorf("loadparm for a bundle without a disk to boot: %v", err)
	}
}

// What a hostile host makes of the disk's tables and volumes.
func TestForgedBootableDisks(t *testing.T) {
	t.Parallel()
	d := disk(t)
	boot, root, srv := d.table.Partitions[0], d.table.Partitions[1], d.table.Partitions[2]
	table := func(change func(p []bootdisk.Partition) []bootdisk.Partition) func(*os.File) error {
		forged := *d.table
		forged.Partitions = change(append([]bootdisk.Partition(nil), d.table.Partitions...))
		return func(f *os.File) error { return forged.Write(f) }
	}
	write := func(at int64, data []byte) func(*os.File) error {
		return func(f *os.File) error {
			_, err := f.WriteAt(data, at)
			return err
		}
	}
	const payload = 16 << 20
	type forgedCase struct {
		name, code string
		forge      func(*os.File) error
	}
	cases := []forgedCase{
		{"two partitions with the root's GUID", "G105", table(func(p []bootdisk.Partition) []bootdisk.Partition {
			p[2].ID = p[1].ID
			return p
		})},
		{"root and data swapped", "G108", table(func(p []bootdisk.Partition) []bootdisk.Partition {
			p[1].ID, p[2].ID = p[2].ID, p[1].ID
			return p
		})},
		{"two partitions with the data volume's GUID", "G115", table(func(p []bootdisk.Partition) []bootdisk.Partition {
			p[0].ID = p[2].ID
			return p
		})},
		{"data volume cut off", "G116", table(func(p []bootdisk.Partition) []bootdisk.Partition {
			p[2].Size -= 1 << 20
			return p
		})},
		{"data volume of zeros", "G118", write(srv.Start+payload, make([]byte, 1<<20))},
		{"root of zeros", "G108", write(root.Start+payload, make([]byte, 1<<20))},
		{"another number for the boot partition, LUKS headers gone", "", func(f *os.File) error {
			for _, p := range []bootdisk.Partition{root, srv} {
				if err := write(p.Start, make([]byte, 1<<20))(f); err != nil {
					return err
				}
			}
			return table(func(p []bootdisk.Partition) []bootdisk.Partition {
				p[0].ID = bootdisk.NewGUID()
				return p
			})(f)
		}},
		{"image changed", "H209", func(f *os.File) error {
			slots, err := bootdisk.ReadRecord(f, d.table.Size)
			if err != nil {
				return err
			}
			runs := slots[0].Loads[0].Runs
			last := runs[len(runs)-1]
			return write((last.Block+last.Blocks/2)*bootdisk.BlockSize, []byte("forged"))(f)
		}},
		{"no boot record", "H208", write(0, make([]byte, 32))},
	}
	if os.Getenv("SECEXEC_LONG") != "" { // guestinit waits for what does not come
		for i, code := range map[int]string{1: "G104", 2: "G114"} {
			cases = append(cases, forgedCase{"partition's GUID changed", code, table(func(p []bootdisk.Partition) []bootdisk.Partition {
				p[i].ID = bootdisk.NewGUID()
				return p
			})})
		}
	}
	if boot.Start >= root.Start || root.Start >= srv.Start {
		t.Fatalf("partitions are not in order: %v", d.table)
	}
	n := newNode(t)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := n.with(t)
			b := d.bundle(t, c.forge)
			name := "forged-" + string(rune('a'+i))
			if err := n.launch(b, name); err != nil {
				t.Fatal(err)
			}
			g := n.settled(name)
			console := n.console(name)
			switch {
			case c.code == "" && g.State != "ready":
				t.Errorf("guest is %v\n%s", g, console)
			case c.code != "" && (g.State != "failed" || g.Failure.Code != c.code):
				t.Errorf("guest is %v, wants failure %s\n%s", g, c.code, console)
			case c.code != "" && strings.Contains(console, "testinit"):
				t.Errorf("the root ran:\n%s", console)
			case strings.HasPrefix(c.code, "G") && !strings.Contains(console, "secexec: guest stopped: "+c.code):
				t.Errorf("the console does not say why:\n%s", console)
			}
			if _, err := n.c.Kill(t.Context(), name); g.State == "ready" && err != nil {
				t.Error(err)
			}
		})
	}
}

// A provider without hostagent: one disk on virtio-scsi, no readiness port. Of
// ours only the stand-in is there, in firmware's place.
func TestBootableDiskWithoutHostagent(t *testing.T) {
	t.Parallel()
	d := disk(t)
	dir, err := os.MkdirTemp("", "disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := func(name string) string { return filepath.Join(dir, name) }
	start := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe() // the stand-in ends with it
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	start("qemu-system-s390x", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S", "-gdb", "unix:"+path("gdb")+",server=on,wait=off",
		"-accel", "tcg", "-cpu", "max", "-m", "256", "-M", "s390-ccw-virtio,memory-backend=ram,loadparm=1",
		"-object", "memory-backend-file,id=ram,size=256M,share=on,mem-path="+path("ram"),
		"-chardev", "file,id=c,path="+path("console"), "-device", "sclpconsole,chardev=c",
		"-drive", "if=none,id=d,format=raw,snapshot=on,file="+d.path,
		"-device", "virtio-scsi-ccw,iommu_platform=on", "-device", "scsi-hd,drive=d,bootindex=1")
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path("gdb")); err == nil {
			break
		}
	}
	start(filepath.Join(lab.dir, "hostagent"), "ultravisor", "--gdb", path("gdb"), "--ram", path("ram"),
		"--size", "268435456", "--host", filepath.Join(lab.dir, "host-a"), "--firmware")
	var console []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		console, _ = os.ReadFile(path("console"))
		if bytes.Contains(console, []byte("testinit: waits")) {
			break
		}
	}
	for _, want := range []string{"Using virtio-scsi.", " image=current", "/srv/content: the owner's data", "testinit: waits"} {
		if !bytes.Contains(console, []byte(want)) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
}
