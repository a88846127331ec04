package booted

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/owner"
)

// nodeOn starts a hostagent on an emulated host.
func nodeOn(t *testing.T, host string) *node {
	t.Helper()
	return newNode(t, "--emulated-host", filepath.Join(lab.dir, host))
}

// A guest goes to another host and comes back, through commands, a target and a
// source that are killed on the way. It keeps its disk, its UUID and its
// identity; whatever was killed, one node alone can start it.
func TestMovedThereAndBack(t *testing.T) {
	t.Parallel()
	small(t) // skips
	plan, err := plan("movable", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(lab.dir, "host-b/host.crt"))
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := hostkey.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	plan.Hosts = append(plan.Hosts, other)
	if _, err := owner.Build(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	a, b := nodeOn(t, "host-a"), nodeOn(t, "host-b")
	before := a.ready(plan.Bundle, "g")
	a.says("g", "boots before: 0")

	out, err := a.secexec("move", "g", "--to", b.path("sock"), "--dry-run")
	if err != nil || !strings.Contains(out, "key slot") || strings.Contains(out, "H2") {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	if g, err := a.c.Get(t.Context(), "g"); err != nil || g.Pid != before.Pid || g.Move != nil {
		t.Errorf("the dry run changed %v, %v", g, err)
	}
	if guests, err := b.c.List(t.Context()); err != nil || len(guests) > 0 {
		t.Errorf("the dry run left %v, %v", guests, err)
	}

	move := []string{"move", "g", "--to", b.path("sock"), "--keep", "--identity", plan.Secrets + "/identity.pub"}
	for i := range 6 {
		cmd := exec.Command(filepath.Join(lab.dir, "secexec"), move...)
		cmd.Env = append(os.Environ(), "SECEXEC_SOCKET="+a.path("sock"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		switch i % 3 {
		case 0:
			_ = cmd.Process.Kill()
		case 1:
			a.kill()
			a.start()
		case 2:
			b.kill()
			b.start()
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if out, err := a.secexec(move...); err != nil || !strings.Contains(out, "guest g is on "+b.path("sock")+" and ready: signed by image") {
		t.Fatalf("move: %v\n%s", err, out)
	}
	after, err := b.c.Get(t.Context(), "g")
	if err != nil || after.Uuid != before.Uuid || after.Identity != before.Identity || after.OwnerUid != before.OwnerUid {
		t.Errorf("there is %v, %v; was %v", after, err, before)
	}
	b.says("g", "boots before: ")
	if strings.Contains(b.console("g"), "boots before: 0") {
		t.Errorf("the disk did not come along:\n%s", b.console("g"))
	}
	if out, err := a.secexec("start", "g"); err == nil || !strings.Contains(out, "H238: guest g was given to "+b.path("sock")) {
		t.Errorf("start of the kept copy: %v\n%s", err, out)
	}
	if out, err := a.secexec("ps", "--all"); err != nil || !strings.Contains(out, "gone") {
		t.Errorf("ps: %v\n%s", err, out)
	}

	// Back, over the kept copy.
	out, err = b.secexec("move", "g", "--to", a.path("sock"), "--json", "--identity", plan.Secrets+"/identity.pub")
	if err != nil || !strings.Contains(out, `"by": "owner"`) {
		t.Fatalf("move back: %v\n%s", err, out)
	}
	if g, err := a.c.Get(t.Context(), "g"); err != nil || g.State != "ready" || g.Uuid != before.Uuid {
		t.Errorf("back: %v, %v", g, err)
	}
	if left, err := os.ReadDir(b.path("state/guests")); err != nil || len(left) > 0 {
		t.Errorf("left in the other node's state folder: %v %v", left, err)
	}
	if out, err := a.secexec("inspect", "g"); err != nil || !strings.Contains(out, "came from "+b.path("sock")) {
		t.Errorf("inspect: %v\n%s", err, out)
	}
}

// A guest without a key slot for the other node stays as it is, running.
func TestMoveRefused(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	a, b := nodeOn(t, "host-a"), nodeOn(t, "host-b")
	before := a.ready(bundle, "g")
	for _, args := range [][]string{{}, {"--dry-run"}} {
		out, err := a.secexec(append([]string{"move", "g", "--to", b.path("sock")}, args...)...)
		if err == nil || !strings.Contains(out, "H202: none of the image's 1 key slots is for that node") {
			t.Errorf("move %v: %v\n%s", args, err, out)
		}
	}
	if out, err := a.secexec("move", "g", "--to", a.path("sock")); err == nil || !strings.Contains(out, "H240: guest g is on that node already") {
		t.Errorf("move to itself: %v\n%s", err, out)
	}
	if g, err := a.c.Get(t.Context(), "g"); err != nil || g.Pid != before.Pid || g.State != "ready" || g.Move != nil {
		t.Errorf("the refusal changed %v, %v", g, err)
	}
	if left, err := os.ReadDir(b.path("state/guests")); err != nil || len(left) > 0 {
		t.Errorf("left on the other node: %v %v", left, err)
	}
}
