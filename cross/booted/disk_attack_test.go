package booted

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// attacked is a bundle whose root holds a canary, and what an attacker has.
type attacked struct {
	bundle string
	disk   []byte // as the provider got it
	plain  []byte // a plain ext4 whose init would run, of the payload's size
	other  []byte // another guest's disk, of the same size
}

// rootCanary is what no host may ever see. It is in the root many times.
const rootCanary = "canary 7b1d9e52 of the owner's"

// attackedRoot makes a root with the canary and testinit; prepare changes it.
func attackedRoot(t *testing.T, prepare func(root string)) string {
	t.Helper()
	small(t)
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"dev", "proc", "run", "sys", "sbin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyInit(filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "secret"), bytes.Repeat([]byte(rootCanary+"\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(root)
	}
	return root
}

// attackedPlan builds a guest whose kernel says on the console when it starts
// guestinit and when it is off.
func attackedPlan(t *testing.T, name, root string) owner.Plan {
	t.Helper()
	p, err := plan(name, root, "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Bundle, p.Secrets = filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), "secrets")
	p.Cmdline = "console=ttysclp0 panic=0 swiotlb=40960 loglevel=7"
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func newAttacked(t *testing.T) *attacked {
	t.Helper()
	root := attackedRoot(t, nil)
	p := attackedPlan(t, "attacked", root)
	a := &attacked{bundle: p.Bundle}
	var err error
	if a.disk, err = os.ReadFile(filepath.Join(p.Bundle, "root.img")); err != nil {
		t.Fatal(err)
	}
	size := len(a.disk) - luksPayload
	a.plain = plainRoot(t, size)
	other := filepath.Join(t.TempDir(), "other.img")
	if _, err := rootdisk.Create(t.Context(), other, rootdisk.Options{Source: root, Size: int64(size), Passphrase: secret.Random(64)}); err != nil {
		t.Fatal(err)
	}
	if a.other, err = os.ReadFile(other); err != nil {
		t.Fatal(err)
	}
	return a
}

// diskCase is an attack by means of the root disk.
type diskCase struct {
	name   string
	want   string // a code, "ready", or "any": whatever happens, nothing leaks or runs
	disk   func(a *attacked) []byte
	qemu   string                      // program in testdata that stands before QEMU
	during func(path string) func()    // starts to change the disk's file; what it returns ends that
	root   func(root string)           // changes the root that is sealed
	args   func(t *testing.T) []string // more arguments of secexec create
}

func with(change func(disk []byte)) func(a *attacked) []byte {
	return func(a *attacked) []byte {
		disk := bytes.Clone(a.disk)
		change(disk)
		return disk
	}
}

func inPayload(change func(payload []byte)) func(a *attacked) []byte {
	return with(func(disk []byte) { change(disk[luksPayload:]) })
}

// diskCases are all attacks but those on the header.
func diskCases() []diskCase {
	const sector = 4096
	return []diskCase{
		{name: "a plain file system with an init of its own", want: "G108", disk: func(a *attacked) []byte { return append(bytes.Clone(a.plain), make([]byte, luksPayload)...) }},
		{name: "a plain file system behind the header", want: "G108", disk: func(a *attacked) []byte { return append(bytes.Clone(a.disk[:luksPayload]), a.plain...) }},
		{name: "a plain file system in the header's place", want: "ready", disk: with(func(d []byte) {
			clear(d[:luksPayload])
			copy(d[:luksPayload], "\x00")
			copy(d[1024+56:], "\x53\xef")
		})},
		{name: "a plain file system and the null cipher", want: "G108", disk: func(a *attacked) []byte {
			disk := append(bytes.Clone(a.disk[:luksPayload]), a.plain...)
			rewrite(func(s string) string { return strings.ReplaceAll(s, "aes-xts-plain64", "cipher_null-ecb") }, 0, 1)(disk)
			return disk
		}},
		{name: "another guest's disk", want: "G108", disk: func(a *attacked) []byte { return a.other }},
		{name: "another guest's payload behind this header", want: "G108", disk: func(a *attacked) []byte {
			return append(bytes.Clone(a.disk[:luksPayload]), a.other[luksPayload:]...)
		}},
		{name: "this payload behind another guest's header", want: "ready", disk: func(a *attacked) []byte {
			return append(bytes.Clone(a.other[:luksPayload]), a.disk[luksPayload:]...)
		}},
		{name: "zeros", want: "G108", disk: func(a *attacked) []byte { return make([]byte, len(a.disk)) }},
		{name: "ones", want: "G108", disk: func(a *attacked) []byte { return bytes.Repeat([]byte{0xff}, len(a.disk)) }},
		{name: "noise", want: "G108", disk: with(func(d []byte) {
			var seed [32]byte
			_, _ = rand.NewChaCha8(seed).Read(d)
		})},
		{name: "the payload a sector later", want: "G108", disk: inPayload(func(p []byte) { copy(p[sector:], bytes.Clone(p)) })},
		{name: "the payload a sector earlier", want: "G108", disk: inPayload(func(p []byte) { copy(p, p[sector:]) })},
		{name: "the payload 512 bytes later", want: "G108", disk: inPayload(func(p []byte) { copy(p[512:], bytes.Clone(p)) })},
		{name: "the payload where the header was", want: "G108", disk: with(func(d []byte) { copy(d, d[luksPayload:]); clear(d[luksPayload:]) })},
		{name: "the first sector zeroed", want: "G108", disk: inPayload(func(p []byte) { clear(p[:sector]) })},
		{name: "a bit of the first sector flipped", want: "G108", disk: inPayload(func(p []byte) { p[1024] ^= 1 })},
		{name: "the first sector again and again", want: "G108", disk: inPayload(func(p []byte) {
			for at := sector; at+sector <= len(p); at += sector {
				copy(p[at:], p[:sector])
			}
		})},
		{name: "the first two sectors swapped", want: "G108", disk: inPayload(func(p []byte) {
			first := bytes.Clone(p[:sector])
			copy(p, p[sector:2*sector])
			copy(p[sector:], first)
		})},
		{name: "the second half zeroed", want: "any", disk: inPayload(func(p []byte) { clear(p[len(p)/2:]) })},
		{name: "all but the first MiB zeroed", want: "any", disk: inPayload(func(p []byte) { clear(p[1<<20:]) })},
		{name: "all but the first sector of noise", want: "any", disk: inPayload(func(p []byte) {
			var seed [32]byte
			_, _ = rand.NewChaCha8(seed).Read(p[sector:])
		})},
		{name: "each hundredth sector flipped", want: "any", disk: inPayload(func(p []byte) {
			for at := 50 * sector; at < len(p); at += 100 * sector {
				p[at] ^= 1
			}
		})},

		{name: "a MiB shorter", want: "G106", disk: func(a *attacked) []byte { return a.disk[:len(a.disk)-1<<20] }},
		{name: "a sector shorter", want: "G106", disk: func(a *attacked) []byte { return a.disk[:len(a.disk)-sector] }},
		{name: "512 bytes shorter", want: "G106", disk: func(a *attacked) []byte { return a.disk[:len(a.disk)-512] }},
		{name: "the header alone", want: "G106", disk: func(a *attacked) []byte { return a.disk[:luksPayload] }},
		{name: "one block", want: "G106", disk: func(a *attacked) []byte { return a.disk[:512] }},
		{name: "a MiB longer", want: "ready", disk: func(a *attacked) []byte { return append(bytes.Clone(a.disk), make([]byte, 1<<20)...) }},
		{name: "512 bytes longer", want: "ready", disk: func(a *attacked) []byte { return append(bytes.Clone(a.disk), make([]byte, 512)...) }},
		{name: "twice, one behind the other", want: "ready", disk: func(a *attacked) []byte { return append(bytes.Clone(a.disk), a.disk...) }},

		{name: "no serial number", want: "G104", qemu: "no-serial"},
		{name: "a serial number in capitals", want: "G104", qemu: "other-serial"},
		{name: "a longer serial number", want: "G104", qemu: "longer-serial"},
		{name: "two disks of the root's serial number", want: "G105", qemu: "two-of-them"},
		{name: "another bus", want: "any", qemu: "behind-scsi"},
		{name: "each read fails", want: "G108", qemu: "errors-at-once"},
		{name: "reads of one sector fail", want: "G108", qemu: "errors-half-way"},
		{name: "each write fails", want: "any", qemu: "write-errors"},
		{name: "twenty requests a second", want: "any", qemu: "slow"},
		{name: "a disk that can't be written", want: "G108", qemu: "read-only"},
		{name: "the header changes all the time", want: "ready", during: scribble(0, luksPayload)},
		{name: "the payload changes all the time", want: "any", during: scribble(luksPayload, 1<<62)},
		{name: "extra disks that look like roots", want: "ready", args: func(t *testing.T) []string {
			var args []string
			for i, serial := range []string{"root1", "rootfs", "system"} {
				path := filepath.Join(t.TempDir(), "extra.img")
				if err := os.WriteFile(path, plainRoot(t, 16<<20), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--disk", fmt.Sprintf("path=%s,serial=%s%d", path, serial, i))
			}
			return args
		}},

		{name: "no init", want: "G109", root: func(root string) { os.Remove(filepath.Join(root, "sbin/init")) }},
		{name: "an init that is a folder", want: "G109", root: func(root string) {
			os.Remove(filepath.Join(root, "sbin/init"))
			os.Mkdir(filepath.Join(root, "sbin/init"), 0o755)
		}},
		{name: "an init that can't be run", want: "G109", root: func(root string) {
			os.Remove(filepath.Join(root, "sbin/init"))
			os.WriteFile(filepath.Join(root, "sbin/init"), []byte("#!/bin/sh\n"), 0o644)
		}},
		{name: "an init that leads nowhere", want: "G109", root: relink("nowhere")},
		{name: "an init that leads to itself", want: "G109", root: relink("init")},
		{name: "an init that leads out of the root", want: "G109", root: relink("../../../../guestagent")},
		{name: "an init that leads to guestinit", want: "G109", root: relink("/init")},
		{name: "an init that leads to a running program", want: "G109", root: relink("/proc/self/exe")},
		{name: "an init that leads to a descriptor", want: "G109", root: relink("/proc/1/fd/0")},
		{name: "an init that is named by a link", want: "ready", root: func(root string) {
			os.Rename(filepath.Join(root, "sbin/init"), filepath.Join(root, "sbin/real"))
			os.Symlink("/sbin/real", filepath.Join(root, "sbin/init"))
		}},
	}
}

func relink(to string) func(string) {
	return func(root string) {
		os.Remove(filepath.Join(root, "sbin/init"))
		os.Symlink(to, filepath.Join(root, "sbin/init"))
	}
}

// scribble writes noise into a range of a file until it is told to end.
func scribble(from, to int64) func(path string) func() {
	return func(path string) func() {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				panic(err)
			}
			defer f.Close()
			size, _ := f.Seek(0, 2)
			end := min(to, size)
			noise := make([]byte, 512)
			r := rand.NewChaCha8([32]byte{1})
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				_, _ = r.Read(noise)
				_, _ = f.WriteAt(noise, from+int64(r.Uint64()%uint64((end-from)/512))*512)
			}
		}()
		return func() { close(stop); <-done }
	}
}

// TestDiskAttacks runs what docs/attack-matrix.md lists under "Disk".
func TestDiskAttacks(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	a := newAttacked(t)
	cases := diskCases()
	for _, h := range headerAttacks {
		cases = append(cases, diskCase{name: "header: " + h.name, want: "ready", disk: with(func(d []byte) { h.change(d[:luksPayload]) })})
	}
	results := make([]string, len(cases))
	plain := newNode(t)
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				n := plain.with(t)
				if c.qemu != "" {
					path, err := filepath.Abs("testdata/qemu-" + c.qemu)
					if err != nil {
						t.Fatal(err)
					}
					n = newNode(t, "--qemu", path)
				}
				results[i] = attackDisk(t, n, a, &c, "attack-"+strconv.Itoa(i))
			})
		}
	})
	rows := make([][2]string, len(cases))
	for i, c := range cases {
		rows[i] = [2]string{c.name, results[i]}
	}
	matrix(t, "Disk", rows)
}

// attackDisk boots a guest on an attacked disk and returns what became of it.
func attackDisk(t *testing.T, n *node, a *attacked, c *diskCase, name string) string {
	bundle := a.bundle
	if c.root != nil {
		bundle = attackedPlan(t, name, attackedRoot(t, c.root)).Bundle
	}
	if c.disk != nil {
		bundle = copyBundle(t, a.bundle)
		if err := os.WriteFile(filepath.Join(bundle, "root.img"), c.disk(a), 0o600); err != nil {
			t.Fatal(err)
		}
		cover(t, bundle, a.bundle, "root.img")
	}
	args := []string{"create", bundle, "--name", name}
	if c.args != nil {
		args = append(args, c.args(t)...)
	}
	if out, err := n.secexec(args...); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	if c.during != nil {
		found, err := filepath.Glob(n.path("state/guests/" + name + "/root*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the guest's disk is not found: %v %v", found, err)
		}
		defer c.during(found[0])()
	}
	if _, err := n.c.Start(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	g := n.settled(name)
	if g.State == "ready" {
		n.says(name, "testinit: waits")
		if _, err := n.c.Kill(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	console, result := n.console(name), g.State
	if g.Failure != nil {
		result = g.Failure.Code
	}
	if c.want != "any" && result != c.want {
		t.Errorf("guest is %v, wants %s\n%s", g, c.want, console)
	}
	if strings.HasPrefix(result, "G") {
		if !strings.Contains(console, "secexec: guest stopped: "+result) {
			t.Errorf("the console does not say why:\n%s", console)
		}
		if start, took := guestTimes(console); start <= 0 || took > max(5, 5*start) {
			t.Errorf("refused and off after %.1f s of the guest's time, which started in %.1f s:\n%s", took, start, console)
		}
	}
	if c.want != "ready" && c.want != "any" && strings.Contains(console, "testinit") {
		t.Errorf("an init ran:\n%s", console)
	}
	leaks(t, n, name)
	if c.want == "any" {
		return "no leak: ready, or stopped"
	}
	return result
}

var stamp = regexp.MustCompile(`(?m)^\[ *(\d+\.\d+)\]`)

// guestTimes are, in seconds by the kernel's log, when a guest's init was started
// and how long it lived from then on; zero: the log does not tell. Under
// emulation they grow with the load of the machine, all alike.
func guestTimes(console string) (start, life float64) {
	before, after, _ := strings.Cut(console, "Run /init as init process")
	last := func(text string) float64 {
		all := stamp.FindAllStringSubmatch(text, -1)
		if len(all) == 0 {
			return 0
		}
		seconds, _ := strconv.ParseFloat(all[len(all)-1][1], 64)
		return seconds
	}
	start = last(before)
	return start, max(0, last(after)-start)
}

// leaks looks for the canary in all that the host has of a guest.
func leaks(t *testing.T, n *node, name string) {
	t.Helper()
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(path, name) && d.Name() != "hostagent.log" {
			return nil // gone, or another guest's
		}
		data, err := os.ReadFile(path)
		if err == nil && bytes.Contains(data, []byte(rootCanary)) {
			t.Errorf("%s holds what only the owner may see", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
