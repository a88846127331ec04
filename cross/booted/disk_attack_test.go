package booted

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// sector is dm-crypt's.
const sector = 4096

// noisy are the ends of a guest that meets noise or errors somewhere in its root.
// What a file system makes of them is not ours to say.
const noisy = "runs G107 G108 G109 G110 G111 H210 H211 H212"

// onDisk makes an attack's forge of what changes the disk's bytes or gives others.
func onDisk(forge func(t *testing.T, disk []byte) []byte) func(*testing.T, *victim) {
	return func(t *testing.T, v *victim) {
		path := filepath.Join(v.bundle, "root.img")
		disk, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, forge(t, disk), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// inPayload is the same for changes behind the LUKS2 header.
func inPayload(change func(payload []byte)) func(*testing.T, *victim) {
	return onDisk(func(_ *testing.T, disk []byte) []byte { change(disk[luksPayload:]); return disk })
}

// resized is the same for a disk of another size; what is new is zeros.
func resized(size func(old int) int) func(*testing.T, *victim) {
	return onDisk(func(_ *testing.T, disk []byte) []byte {
		return append(disk, make([]byte, max(0, size(len(disk))-len(disk)))...)[:size(len(disk))]
	})
}

// otherDisk is a disk of the victim's size and files and another key.
func otherDisk(t *testing.T, disk []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.img")
	if _, err := rootdisk.Create(t.Context(), path, rootdisk.Options{
		Source: filepath.Join(lab.dir, "victim-root"), Size: int64(len(disk) - luksPayload), Passphrase: secret.Random(64),
	}); err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// plainRoot makes an ext4 file system, unencrypted, with testinit as its init and
// the forged disk's canary.
func plainRoot(t *testing.T, size int) []byte {
	t.Helper()
	root, path := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "plain.ext4")
	if err := makeRoot(root, map[string]string{"forged": forgedCanary}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func noise(b []byte) {
	var seed [32]byte
	_, _ = rand.NewChaCha8(seed).Read(b)
}

// above puts a block driver over the root disk's file.
func above(driver string) func(*testing.T, *victim) string {
	return sed(`/"node-name":"disk0-file"/{s/disk0-file/disk0-below/;s|$|\n-blockdev\n{"node-name":"disk0-file",` + driver + `}|}`)
}

func sed(script string) func(*testing.T, *victim) string {
	return func(*testing.T, *victim) string { return script }
}

// scribble writes noise into a range of the disk's file until the test ends.
func scribble(from, to int64) func(*testing.T, *victim) {
	return func(t *testing.T, v *victim) {
		f, err := os.OpenFile(v.path("state/guests/"+v.name+"/root.img"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Seek(0, 2)
		if err != nil {
			t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan struct{})
		t.Cleanup(func() { close(stop); <-done })
		go func() {
			defer close(done)
			defer f.Close()
			b, r := make([]byte, 512), rand.NewChaCha8([32]byte{1})
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				_, _ = r.Read(b)
				_, _ = f.WriteAt(b, from+int64(r.Uint64()%uint64((min(to, size)-from)/512))*512)
			}
		}()
	}
}

// withInit seals a root whose init is a link to somewhere, or what change makes
// of it.
func withInit(name, to string, change func(init string) error) func(*testing.T) string {
	return of(sync.OnceValues(func() (string, error) {
		root := filepath.Join(lab.dir, name+"-root")
		if err := makeRoot(root, nil); err != nil {
			return "", err
		}
		init := filepath.Join(root, "sbin/init")
		if change == nil {
			change = func(init string) error {
				if err := os.Rename(init, filepath.Join(root, "sbin/real")); err != nil {
					return err
				}
				return os.Symlink(to, init)
			}
		}
		if err := change(init); err != nil {
			return "", err
		}
		p, err := plan(name, root, "host-a", 256)
		if err != nil {
			return "", err
		}
		_, err = owner.Build(context.Background(), p)
		return p.Bundle, err
	}))
}

// diskAttacks are what a host can do by means of the root disk: first what lies
// behind the header, then around it, and the header's own at the end.
var diskAttacks = append([]attack{
	{name: "gives a plain file system with an init of its own", want: "G108", quick: true, forge: onDisk(func(t *testing.T, disk []byte) []byte {
		return append(plainRoot(t, len(disk)-luksPayload), make([]byte, luksPayload)...)
	})},
	{name: "gives a plain file system behind the header", want: "G108", quick: true, forge: onDisk(func(t *testing.T, disk []byte) []byte {
		return append(disk[:luksPayload], plainRoot(t, len(disk)-luksPayload)...)
	})},
	{name: "gives a plain file system and a header that names the null cipher", want: "G108", quick: true, forge: onDisk(func(t *testing.T, disk []byte) []byte {
		disk = append(disk[:luksPayload], plainRoot(t, len(disk)-luksPayload)...)
		rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "cipher_null-ecb") }, 0, 1)(disk)
		return disk
	})},
	{name: "puts a plain file system in the header's place", want: "runs", after: clean, forge: onDisk(func(t *testing.T, disk []byte) []byte {
		copy(disk, plainRoot(t, luksPayload))
		return disk
	})},
	{name: "gives another guest's disk", want: "G108", quick: true, forge: onDisk(otherDisk)},
	{name: "gives another guest's payload behind this header", want: "G108", forge: onDisk(func(t *testing.T, disk []byte) []byte {
		return append(disk[:luksPayload], otherDisk(t, disk)[luksPayload:]...)
	})},
	{name: "gives this payload behind another guest's header", want: "runs", after: clean, forge: onDisk(func(t *testing.T, disk []byte) []byte {
		copy(disk, otherDisk(t, disk)[:luksPayload])
		return disk
	})},
	{name: "gives zeros", want: "G108", quick: true, forge: onDisk(func(_ *testing.T, disk []byte) []byte { clear(disk); return disk })},
	{name: "gives ones", want: "G108", forge: onDisk(func(_ *testing.T, disk []byte) []byte { return bytes.Repeat([]byte{0xff}, len(disk)) })},
	{name: "gives noise", want: "G108", forge: onDisk(func(_ *testing.T, disk []byte) []byte { noise(disk); return disk })},
	{name: "moves the payload a sector on", want: "G108", forge: inPayload(func(p []byte) { copy(p[sector:], bytes.Clone(p)) })},
	{name: "moves the payload a sector back", want: "G108", forge: inPayload(func(p []byte) { copy(p, p[sector:]) })},
	{name: "moves the payload 512 bytes on", want: "G108", forge: inPayload(func(p []byte) { copy(p[512:], bytes.Clone(p)) })},
	{name: "moves the payload to where the header was", want: "G108", forge: onDisk(func(_ *testing.T, disk []byte) []byte {
		copy(disk, disk[luksPayload:])
		clear(disk[luksPayload:])
		return disk
	})},
	{name: "zeroes the first sector", want: "G108", forge: inPayload(func(p []byte) { clear(p[:sector]) })},
	{name: "flips a bit of the first sector", want: "G108", forge: inPayload(func(p []byte) { p[1024] ^= 1 })},
	{name: "repeats the first sector all over the payload", want: "G108", forge: inPayload(func(p []byte) {
		for at := sector; at+sector <= len(p); at += sector {
			copy(p[at:], p[:sector])
		}
	})},
	{name: "swaps the first two sectors", want: "G108", forge: inPayload(func(p []byte) {
		first := bytes.Clone(p[:sector])
		copy(p, p[sector:2*sector])
		copy(p[sector:], first)
	})},
	{name: "zeroes the second half", want: noisy, forge: inPayload(func(p []byte) { clear(p[len(p)/2:]) })},
	{name: "zeroes all but the first MiB", want: noisy, forge: inPayload(func(p []byte) { clear(p[1<<20:]) })},
	{name: "makes noise of all but the first sector", want: noisy, forge: inPayload(func(p []byte) { noise(p[sector:]) })},
	{name: "flips a bit in each hundredth sector", want: noisy, forge: inPayload(func(p []byte) {
		for at := 50 * sector; at < len(p); at += 100 * sector {
			p[at] ^= 1
		}
	})},

	{name: "cuts a MiB off", want: "G106", quick: true, forge: resized(func(n int) int { return n - 1<<20 })},
	{name: "cuts a sector off", want: "G106", forge: resized(func(n int) int { return n - sector })},
	{name: "cuts 512 bytes off", want: "G106", forge: resized(func(n int) int { return n - 512 })},
	{name: "gives the header alone", want: "G106", forge: resized(func(int) int { return luksPayload })},
	{name: "gives one block", want: "G106", forge: resized(func(int) int { return 512 })},
	{name: "adds a MiB", want: "runs", after: clean, forge: resized(func(n int) int { return n + 1<<20 })},
	{name: "adds 512 bytes", want: "runs", after: clean, forge: resized(func(n int) int { return n + 512 })},
	{name: "gives the disk twice, one behind the other", want: "runs", after: clean, forge: onDisk(func(_ *testing.T, disk []byte) []byte { return append(disk, disk...) })},

	{name: "gives no serial number", want: "G104", silence: 5 * time.Second, sed: sed(`s|"serial":"root",||`)},
	{name: "gives a serial number in capitals", want: "G104", silence: 5 * time.Second, sed: sed(`s|"serial":"root"|"serial":"ROOT"|`)},
	{name: "gives a longer serial number", want: "G104", silence: 5 * time.Second, sed: sed(`s|"serial":"root"|"serial":"root1"|`)},
	{name: "gives two disks of the root's serial number", want: "G105", sed: sed(`/"serial":"root"/{p;s|disk0-file|second|;s|"id":"disk0"|"id":"second"|;s|,"bootindex":1||;s|fe.0.0100|fe.0.0180|;` +
		`s|^|-blockdev\n{"driver":"null-co","node-name":"second","size":67108864,"read-zeroes":true}\n-device\n|}`)},
	{name: "puts the disk on virtio-scsi", want: "G104", silence: 5 * time.Second, sed: sed(`s|^.*"serial":"root".*$|{"driver":"virtio-scsi-ccw","id":"scsi9","devno":"fe.0.0190","iommu_platform":true}\n-device\n` +
		`{"driver":"scsi-hd","id":"disk0","bus":"scsi9.0","drive":"disk0-file","serial":"root"}|`)},
	{name: "lets each read fail", want: "G108", sed: above(`"driver":"blkdebug","image":"disk0-below","inject-error":[{"event":"none","iotype":"read","errno":5}]`)},
	{name: "lets reads of one sector fail", want: "G108", sed: above(`"driver":"blkdebug","image":"disk0-below","inject-error":[{"event":"none","iotype":"read","errno":5,"sector":32776}]`)},
	{name: "lets each write fail", want: noisy, sed: above(`"driver":"blkdebug","image":"disk0-below","inject-error":[{"event":"none","iotype":"write","errno":5}]`)},
	{name: "lets nothing be written", want: "G108", sed: above(`"driver":"raw","file":"disk0-below","read-only":true`)},
	{name: "answers twenty requests a second", want: noisy, sed: func(t *testing.T, v *victim) string {
		return more("-object", `{"qom-type":"throttle-group","id":"slow","limits":{"iops-total":20}}`)(t, v) + "\n" +
			above(`"driver":"throttle","throttle-group":"slow","file":"disk0-below"`)(t, v)
	}},
	{name: "changes the header all the time", want: "runs", after: clean, during: scribble(0, luksPayload)},
	{name: "changes the payload all the time", want: noisy, during: scribble(luksPayload, 1<<62)},
	{name: "attaches disks that look like roots", want: "runs", after: clean, sed: func(t *testing.T, v *victim) string {
		var args []string
		for i, serial := range []string{"root1", "rootfs", "system"} {
			path := v.file(serial)
			if err := os.WriteFile(path, plainRoot(t, 16<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "-blockdev", fmt.Sprintf("file,node-name=extra%d,filename=%s", i, path),
				"-device", fmt.Sprintf("virtio-blk-ccw,drive=extra%d,serial=%s,devno=fe.0.0f%02d", i, serial, i))
		}
		return more(args...)(t, v)
	}},

	{name: "nothing: the root has no init", want: "G109", bundle: withInit("initless", "", os.Remove)},
	{name: "nothing: the init is a folder", want: "G109", bundle: withInit("folder", "", func(init string) error {
		if err := os.Remove(init); err != nil {
			return err
		}
		return os.Mkdir(init, 0o755)
	})},
	{name: "nothing: the init can't be run", want: "G109", bundle: withInit("inert", "", func(init string) error { return os.Chmod(init, 0o644) })},
	{name: "nothing: the init leads nowhere", want: "G109", bundle: withInit("nowhere", "nowhere", nil)},
	{name: "nothing: the init leads to itself", want: "G109", bundle: withInit("itself", "init", nil)},
	{name: "nothing: the init leads out of the root", want: "G109", bundle: withInit("out", "../../../../guestagent", nil)},
	{name: "nothing: the init leads to guestinit", want: "G109", bundle: withInit("to-guestinit", "/init", nil)},
	{name: "nothing: the init leads to a running program", want: "G109", bundle: withInit("exe", "/proc/self/exe", nil)},
	{name: "nothing: the init leads to a descriptor", want: "G109", bundle: withInit("descriptor", "/proc/1/fd/0", nil)},
	{name: "nothing: the init is named by a link", want: "runs", after: clean, bundle: withInit("link", "/sbin/real", nil)},
}, headers()...)

// headers are the attacks on the header: none may have any effect.
func headers() (all []attack) {
	for _, h := range headerAttacks {
		all = append(all, attack{
			name: "header: " + h.name, want: "runs", after: clean, quick: h.quick,
			forge: onDisk(func(_ *testing.T, disk []byte) []byte { h.change(disk[:luksPayload]); return disk }),
		})
	}
	return all
}

// A hostile host meddles with the root disk.
func TestDiskAttacks(t *testing.T) {
	t.Parallel()
	attacks(t, diskAttacks)
}
