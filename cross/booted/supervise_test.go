package booted

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
	"github.com/secexec/secexec/sealed"
)

// appImage writes a container image whose program is testapp.
func appImage(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(lab.dir, "testapp"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range []struct {
		name string
		mode int64
		uid  int
		data string
	}{
		{"etc/passwd", 0o644, 0, "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/data:/bin/sh\n"},
		{"etc/group", 0o644, 0, "root:x:0:\nother:x:5:app,root\n"},
		{"bin/testapp", 0o755, 0, string(program)},
		{"data/", 0o755, 1000, ""}, {"run/app/", 0o755, 1000, ""},
	} {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.uid, Size: int64(len(f.data))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	ocitest.WriteLayout(t, dir, ocitest.Image{Architecture: "s390x", Layers: [][]byte{layer.Bytes()}, Config: oci.Config{
		Entrypoint: []string{"testapp"}, Cmd: []string{"serve"}, Env: []string{"PATH=/nowhere:/bin", "GREETING=hello"},
		User: "app", WorkingDir: "/data/work", StopSignal: "SIGINT",
	}})
	return "oci:" + dir
}

// A container image as it is becomes a guest: its program runs as the image
// says, is run again when it fails, and ends in order with its status told.
func TestSupervisedWorkload(t *testing.T) {
	t.Parallel()
	small(t) // skips
	p, err := plan("app", appImage(t), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Init, p.StopSignal = "", 0
	p.Workload = &owner.Workload{Restart: sealed.RestartOnFailure, CapAdd: []string{"NET_BIND_SERVICE"}, NoNewPrivs: true, NoNetwork: true, Env: []string{"GREETING=hi"}}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.ready(p.Bundle, "app")
	console := n.says("app", "testapp: runs before: 1")
	for _, want := range []string{
		`testapp: argv ["testapp" "serve"] dir /data/work uid 1000 gid 1001 groups [5] pid1 true host app`,
		`testapp: env ["PATH=/nowhere:/bin" "GREETING=hi" "HOSTNAME=app" "HOME=/data"`,
		"testapp: CapInh: 0000000000000400", "testapp: CapPrm: 0000000000000400", "testapp: CapEff: 0000000000000400",
		"testapp: CapBnd: 00000000800405fb", "testapp: CapAmb: 0000000000000400", "testapp: NoNewPrivs: 1",
		"testapp: files <nil> 1048576", "testapp: cgroup 0::/workload",
		"testapp: dev [console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero]",
		"testapp: by its path", "testapp: open stdout: <nil>", "testapp: to standard error",
		"testapp: write shm: <nil>", "testapp: image's run: <nil>",
		"testapp: write /proc/sys/kernel/core_pattern: open /proc/sys/kernel/core_pattern: ",
		"testapp: write /sys/fs/cgroup/cgroup.procs: open /sys/fs/cgroup/cgroup.procs: ",
		"testapp: write /etc/new: open /etc/new: permission denied", "testapp: write /run/new: open /run/new: permission denied",
		"testapp: runs before: 0, <nil>", "testapp: leaves one behind: <nil>",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
	// A flood is under way; the host's challenge is answered all the same.
	if out, err := n.secexec("verify", "app", "--identity", p.Secrets+"/identity.pub"); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	console = n.says("app", "testapp: waits")
	if strings.Count(console, "testapp: orphans: 0") != 2 {
		t.Errorf("the first run left processes to the second")
	}
	if out, err := n.secexec("stop", "app"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	if g := n.settled("app"); g.State != "stopped" || g.Failure != nil {
		t.Errorf("after stop: %v", g)
	}
	console = n.console("app")
	for _, want := range []string{"testapp: got interrupt", "testapp: last words", "secexec: the workload ended with status 7"} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console[max(0, len(console)-4000):])
		}
	}

	// The root was left clean: it boots again, and the program goes on.
	if out, err := n.secexec("start", "app", "--identity", p.Secrets+"/identity.pub"); err != nil {
		t.Errorf("start: %v\n%s", err, out)
	}
	n.says("app", "testapp: runs before: 2")
}

// A program that the root does not have is told before anything runs.
func TestSupervisedNothing(t *testing.T) {
	t.Parallel()
	small(t)
	p, err := plan("noapp", appImage(t), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Workload = &owner.Workload{Entrypoint: []string{"absent"}, NoNetwork: true}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	if err := n.launch(p.Bundle, "noapp"); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("noapp"); g.State != "failed" || !strings.Contains(g.Failure.String(), "G140") {
		t.Errorf("guest is %v\n%s", g, n.console("noapp"))
	}
}
