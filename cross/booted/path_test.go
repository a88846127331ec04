package booted

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/sealed"
)

// The whole path: launch, unlock, ready, verified; what the workload sees; the
// canaries; an orderly end; and a second boot of the same disk.
func TestWholePath(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	n := newNode(t)
	g := n.ready(bundle, "g")

	var stages []string
	for _, s := range g.Stages {
		stages = append(stages, s.Name)
	}
	if want := append([]string{"starting", "unpacked"}, slices.DeleteFunc(slices.Clone(readiness.Stages), func(s string) bool { return s == readiness.StageSecrets })...); !slices.Equal(stages, want) {
		t.Errorf("stages %v, wants %v", stages, want)
	}
	if g.Protected || g.Platform != "emulated" {
		t.Errorf("the emulation passes for %s, protected %v", g.Platform, g.Protected)
	}

	out, err := n.secexec("verify", "g", "--identity", bundle+"-secrets/identity.pub")
	if err != nil || !strings.Contains(out, "verified: signed by image "+g.ImageId+" with the owner's identity key") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.pub")
	if err := os.WriteFile(wrong, []byte(strings.Repeat("1d", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := n.secexec("verify", "g", "--identity", wrong); err == nil || !strings.Contains(out, "not signed by this image's identity key") {
		t.Errorf("verify with another key: %v\n%s", err, out)
	}

	console := n.says("g", "testinit: waits")
	for _, want := range []string{
		`pid 1 argv ["/sbin/init"]`,
		// The key is in the kernel's keyring alone, and no longer there.
		"dm table: 0 ", "crypt aes-xts-plain64 :64:logon:secexec:root 0 ", " 32768 1 sector_size:4096",
		"/dev/dm-0 / ext4 rw", "stat /sealed.record: no such file",
		`"@guestagent" cgroup "0::/secexec"`, "boots before: 0",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
	if strings.Contains(console, "logon     secexec:root") {
		t.Error("the volume key is still in a keyring")
	}
	canaries(t, n, g.Pid, bundle+"-secrets")

	if out, err := n.secexec("stop", "g"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	if g := n.settled("g"); g.State != "stopped" || g.Pid != 0 || g.Failure != nil {
		t.Errorf("after stop: %v", g)
	}
	if console := n.console("g"); !strings.Contains(console, "got signal 38, powers off") {
		t.Errorf("the workload was not asked to power off:\n%s", console)
	}

	if out, err := n.secexec("start", "g", "--identity", bundle+"-secrets/identity.pub"); err != nil || !strings.Contains(out, "guest g is ready: signed by image") {
		t.Errorf("start: %v\n%s", err, out)
	}
	n.says("g", "boots before: 1")
	if err := n.c.Delete(t.Context(), "g"); code(err) != "H205" {
		t.Errorf("delete of a running guest: %v", err)
	}
	if out, err := n.secexec("rm", "-f", "g"); err != nil {
		t.Errorf("rm -f: %v\n%s", err, out)
	}
	if left, err := os.ReadDir(n.path("state/guests")); err != nil || len(left) > 0 {
		t.Errorf("left in the state folder: %v %v", left, err)
	}
	if left, err := os.ReadDir(n.path("run/guests")); err != nil || len(left) > 0 {
		t.Errorf("left in the runtime folder: %v %v", left, err)
	}
}

// A root sealed as read-only is mapped and mounted so.
func TestReadOnlyRoot(t *testing.T) {
	t.Parallel()
	small(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := makeRoot(root, nil); err != nil {
		t.Fatal(err)
	}
	plan, err := plan("readonly", root, "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	plan.Root.ReadOnly = true
	if _, err := owner.Build(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.ready(plan.Bundle, "ro")
	console := n.says("ro", "testinit: waits")
	for _, want := range []string{"/dev/dm-0 / ext4 ro", "read-only file system"} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
}

// A Debian system boots to multi-user and is shut down in order, guestagent
// answering all along.
func TestDebianToMultiUser(t *testing.T) {
	t.Parallel()
	small(t) // skips
	tar := filepath.Join(lab.cache, "roots/debian.tar")
	if _, err := os.Stat(tar); err != nil {
		t.Skip("no Debian root in the cache: run cross/setup.sh")
	}
	plan, err := plan("debian", tar, "host-a", 1024)
	if err != nil {
		t.Fatal(err)
	}
	plan.Ready = sealed.ReadyAtNotify // systemd says READY=1 when its default target is reached
	if _, err := owner.Build(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	bundle := plan.Bundle
	n := newNode(t)
	n.ready(bundle, "debian")
	console := n.says("debian", "hello from the sealed guest")
	if strings.Contains(console, "FAILED") || strings.Contains(console, "emergency") {
		t.Errorf("a unit failed:\n%s", console)
	}
	// guestagent is there still, and systemd's word has reached it.
	if out, err := n.secexec("verify", "debian", "--identity", bundle+"-secrets/identity.pub"); err != nil || !strings.Contains(out, "its workload said READY=1") {
		t.Errorf("verify after boot: %v\n%s", err, out)
	}
	begun := time.Now()
	if _, err := n.c.Stop(t.Context(), "debian", time.Minute); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("debian"); g.State != "stopped" || time.Since(begun) > 50*time.Second {
		t.Errorf("after stop, %s later: %v\n%s", time.Since(begun), g, n.console("debian"))
	}
}

// canaries searches all that the host keeps and runs for the owner's secrets.
// Guest memory itself is left out: the emulation protects nothing.
func canaries(t *testing.T, n *node, qemu int32, secrets string) {
	t.Helper()
	keys := make(map[string][]byte)
	for _, name := range []string{"volume.key", "disk.key", "image.key", "header.key", "identity.key", "cck.key"} {
		key, err := os.ReadFile(filepath.Join(secrets, name))
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key[:32]
	}
	search := func(where string, data []byte) {
		for name, key := range keys {
			if bytes.Contains(data, key) {
				t.Errorf("%s holds %s", where, name)
			}
		}
	}
	if err := filepath.WalkDir(n.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		search(path, data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name, pid := range map[string]int{"hostagent": n.cmd.Process.Pid, "QEMU": int(qemu)} {
		regions := 0
		memory(t, pid, func(region string, data []byte) {
			regions++
			search(name+"'s memory "+region, data)
		})
		if regions < 5 {
			t.Errorf("only %d regions of %s's memory were searched", regions, name)
		}
	}
}
