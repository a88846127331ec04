package booted

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/owner"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/sealed"
)

// A workload that has not said READY=1 is running and not ready, whatever the
// host says; one that has is. And it goes on when guestagent is killed.
func TestNotify(t *testing.T) {
	t.Parallel()
	small(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := makeRoot(root, map[string]string{"srv/kill-agent": ""}); err != nil {
		t.Fatal(err)
	}
	plan, err := plan("notify", root, "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	plan.Ready = sealed.ReadyAtNotify
	if _, err := owner.Build(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	identity := plan.Secrets + "/identity.pub"
	n := newNode(t)

	if err := n.launch(plan.Bundle, "g"); err != nil {
		t.Fatal(err)
	}
	g := n.until("g", "unhealthy", func(g *hostagentv1.Guest) bool { return g.Unhealthy || g.State == "failed" })
	if g.State != "running" || g.Stages[len(g.Stages)-1].Name != "running" {
		t.Errorf("a guest whose workload is not ready is %v", g)
	}
	if out, status := verify(n, "g", "--identity", identity); status != 7 || !strings.Contains(out, "does not say that it is ready") {
		t.Errorf("verify before READY=1: status %d\n%s", status, out)
	}
	if out, err := n.secexec("ps"); err != nil || !strings.Contains(out, "running, unhealthy") {
		t.Errorf("ps: %v\n%s", err, out)
	}
	if _, err := n.c.Kill(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}

	if _, err := n.c.Start(t.Context(), "g", ""); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("g"); g.State != "ready" || g.Unhealthy {
		t.Fatalf("guest is %v\n%s", g, n.console("g"))
	}
	console := n.says("g", "notify: said it <nil>")
	if !strings.Contains(console, "notify: /run/secexec/notify Srw-------") {
		t.Errorf("the socket is not root's alone:\n%s", console)
	}
	out, status := verify(n, "g", "--identity", identity, "--json")
	var verdict struct {
		Verified bool   `json:"verified"`
		Ready    bool   `json:"ready"`
		ReadyAt  string `json:"ready_at"`
		RootMode string `json:"root_mode"`
		Proved   []string
	}
	if err := json.Unmarshal([]byte(out), &verdict); err != nil || status != 0 || !verdict.Verified || !verdict.Ready || verdict.ReadyAt != "notify" || verdict.RootMode != "crypt" {
		t.Errorf("verify: %v, status %d, %+v\n%s", err, status, verdict, out)
	}
	for _, row := range []struct {
		status int
		args   []string
	}{
		{2, []string{"--image-id", "xyz"}},
		{6, []string{"--image-id", strings.Repeat("00", 16)}},
		{6, []string{"--root-id", strings.Repeat("00", 16)}},
		{4, []string{"--identity", foreignKey(t)}},
		{5, []string{"--identity", keptAsPrevious(t, identity)}},
	} {
		if out, status := verify(n, append([]string{"g", "--identity", identity}, row.args...)...); status != row.status {
			t.Errorf("verify %v: status %d, wants %d\n%s", row.args, status, row.status, out)
		}
	}
	// What the workload says to its owner is not the host's to know.
	for _, file := range []string{"hostagent.log", "state/guests/g/guest.json"} {
		if text, err := os.ReadFile(n.path(file)); err == nil && bytes.Contains(text, []byte("canary-status")) {
			t.Errorf("%s has the workload's status", file)
		}
	}
}

// The workload goes on when guestagent is killed, and powers off in order.
func TestGuestagentKilled(t *testing.T) {
	t.Parallel()
	small(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := makeRoot(root, map[string]string{"srv/kill-agent": ""}); err != nil {
		t.Fatal(err)
	}
	bundle, err := build("killed", root, "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.ready(bundle, "g")
	n.says("g", "testinit: waits")
	if out, err := n.secexec("stop", "g"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	console := n.console("g")
	for _, want := range []string{"got signal 38, powers off", "guestagent killed: <nil>", "goes on without guestagent"} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
	if g := n.settled("g"); g.State != "stopped" || g.Failure != nil {
		t.Errorf("after its end: %v", g)
	}
}

// verify runs secexec verify and returns what it prints and its exit status.
func verify(n *node, args ...string) (string, int) {
	cmd := exec.Command(filepath.Join(lab.dir, "secexec"), append([]string{"verify"}, args...)...)
	cmd.Env = append(os.Environ(), "SECEXEC_SOCKET="+n.path("sock"))
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if len(out) == 0 || err != nil && cmd.ProcessState == nil {
		out = append(out, errors.Bytes()...)
	} else if errors.Len() > 0 && !bytes.HasPrefix(out, []byte("{")) {
		out = append(out, errors.Bytes()...)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// foreignKey is an identity of nobody.
func foreignKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "identity.pub")
	if err := os.WriteFile(path, []byte(strings.Repeat("1d", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keptAsPrevious is the identity of a later build, beside which this one's is
// kept as the previous.
func keptAsPrevious(t *testing.T, identity string) string {
	t.Helper()
	later := foreignKey(t)
	text, err := os.ReadFile(identity)
	if err == nil {
		err = os.Mkdir(filepath.Join(filepath.Dir(later), owner.PreviousDir), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(later), owner.PreviousDir, "identity.pub"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return later
}
