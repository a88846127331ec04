package booted

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/owner"
)

// What an operator attaches is there in the guest, as it was asked for, and the
// same after another start.
func TestAttachedDevices(t *testing.T) {
	t.Parallel()
	small(t)
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skipf("%v: Debian package qemu-utils", err)
	}
	p, err := plan("scsi", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Devices.SCSI = true
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	bundle := p.Bundle
	n := newNode(t)
	mark := func(name string) []byte { return append([]byte("mark of "+name), make([]byte, 4<<20-8-len(name))...) }
	for _, name := range []string{"raw", "ro", "thin"} {
		if err := os.WriteFile(n.path(name), mark(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
		}
	}
	img("convert", "-f", "raw", "-O", "qcow2", n.path("thin"), n.path("thin.qcow2"))
	img("create", "-q", "-f", "qcow2", "-b", n.path("raw"), "-F", "raw", n.path("backed.qcow2"))

	if out, err := n.secexec("create", bundle, "--name", "bad", "--disk", "path="+n.path("backed.qcow2")+",format=qcow2"); err == nil || !strings.Contains(out, "H234") {
		t.Errorf("an image with a backing file: %v\n%s", err, out)
	}
	out, err := n.secexec("run", bundle, "--name", "g", "--cpus", "2", "--network", "user", "--network", "user,mac=52:54:00:00:00:01",
		"--disk", "path="+n.path("raw")+",serial=probe-raw,discard=unmap",
		"--disk", n.path("ro")+",serial=probe-ro,readonly",
		"--disk", "path="+n.path("thin.qcow2")+",serial=probe-thin,format=qcow2,bus=virtio-scsi,discard=unmap")
	if err != nil {
		t.Fatalf("run: %v\n%s\n%s", err, out, n.console("g"))
	}
	g, err := n.c.Get(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	mac, err := qemu.MAC(g.Uuid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Networks) != 2 || g.Networks[0].Mac != mac || len(g.Disks) != 4 || g.Disks[3].Bus != "virtio-scsi" || !g.Disks[2].ReadOnly {
		t.Errorf("guest is shown as %v", g)
	}
	const discards = "[1-9][0-9]*"
	seen := func(reply string) {
		t.Helper()
		console := n.says("g", "testinit: waits")
		for _, want := range []string{
			`disk vd. serial probe-raw sectors 8192 ro 0 discard ` + discards + ` queues 2: reads "mark of raw` + `" writes <nil>`,
			`disk vd. serial probe-ro sectors 8192 ro 1 discard 0 queues 2: reads "mark of ro" writes .*(permitted|permission|bad file|read-only)`,
			`disk sd. serial probe-thin sectors 8192 ro 0 discard ` + discards + ` queues 2: reads "mark of thin" writes <nil>`,
			`disk vd. serial root .* ro 0 discard 0 queues 2: let alone`,
			`net \S+ address ` + mac, `net \S+ address 52:54:00:00:00:01`,
		} {
			if !regexp.MustCompile(want).MatchString(console) {
				t.Errorf("%s: console has no %s:\n%s", reply, want, console)
			}
		}
	}
	seen("first start")
	if out, err := n.secexec("inspect", "g"); err != nil || !strings.Contains(out, "probe-thin, cache writeback, discard unmap") || !strings.Contains(out, "user, "+mac) {
		t.Errorf("inspect: %v\n%s", err, out)
	}
	domain, err := n.secexec("inspect", "g", "--format", "libvirt")
	for _, want := range []string{
		`<source file="` + n.path("state/guests/g/root.img") + `"/>`, `<source file="` + n.path("thin.qcow2") + `"/>`, `<serial>probe-thin</serial>`,
		`<mac address="` + mac + `"/>`, `<kernel>` + n.path("state/guests/g/boot.seimg") + `</kernel>`, "which libvirt does not have",
	} {
		if err != nil || !strings.Contains(domain, want) {
			t.Errorf("inspect --format libvirt has no %s: %v\n%s", want, err, domain)
		}
	}
	if out, err := n.secexec("stop", "g"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	// What it wrote is in the files, and nowhere else.
	img("convert", "-f", "qcow2", "-O", "raw", n.path("thin.qcow2"), n.path("thin"))
	for name, written := range map[string]bool{"raw": true, "ro": false, "thin": true} {
		got, err := os.ReadFile(n.path(name))
		want := mark(name)
		if written {
			copy(want[512:], "written by the guest to probe-"+name)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("disk %s holds %q: %v", name, bytes.Trim(got[:1024], "\x00"), err)
		}
	}
	// The devices are those of the record; one that is gone is named.
	if out, err := n.secexec("start", "g"); err != nil {
		t.Fatalf("start: %v\n%s", err, out)
	}
	seen("second start")
	if out, err := n.secexec("stop", "g"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	gone := filepath.Join(n.dir, "gone")
	if err := os.Rename(n.path("raw"), gone); err != nil {
		t.Fatal(err)
	}
	if out, err := n.secexec("start", "g"); err == nil || !strings.Contains(out, "H233") || !strings.Contains(out, n.path("raw")) {
		t.Errorf("a disk that is gone: %v\n%s", err, out)
	}
	// An operator's files outlive the guest.
	if out, err := n.secexec("rm", "g"); err != nil {
		t.Errorf("rm: %v\n%s", err, out)
	}
	for _, name := range []string{"gone", "ro", "thin.qcow2"} {
		if _, err := os.Stat(n.path(name)); err != nil {
			t.Errorf("rm removed a disk that was attached: %v", fmt.Errorf("%s: %w", name, err))
		}
	}
}
