package booted

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/sealed"
)

// open is a bundle whose plan allows all of the channel.
var open = sync.OnceValues(func() (string, error) {
	root, err := lab.small()
	if err != nil {
		return "", err
	}
	p, err := plan("open", filepath.Join(filepath.Dir(root), "small-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	p.Channel = owner.Channel{Exec: true, Secrets: []sealed.SecretFile{
		{Name: "tls.key", Mode: 0o440, UID: 7, GID: 8}, {Name: "token", Mode: 0o400},
	}}
	_, err = owner.Build(context.Background(), p)
	return p.Bundle, err
})

// The owner's channel through hostagent: status, secrets, programs.
func TestChannel(t *testing.T) {
	t.Parallel()
	small(t)
	bundle, err := open()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.ready(bundle, "g")
	secrets := bundle + "-secrets"
	connect := func(want string, args ...string) string {
		t.Helper()
		out, err := n.secexec(append([]string{"connect"}, args...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("connect %q: %v, wants %q\n%s", args, err, want, out)
		}
		return out
	}
	refused := func(want string, args ...string) {
		t.Helper()
		out, err := n.secexec(append([]string{"connect"}, args...)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("connect %q: %v, wants %q\n%s", args, err, want, out)
		}
	}
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("canary-of-the-channel"), 0o600); err != nil {
		t.Fatal(err)
	}

	connect("tls.key missing, token missing", "g", "--secrets", secrets)
	connect("tls.key delivered; missing: token", "secret", "g", "tls.key", "--from", canary, "--secrets", secrets)
	refused("names no secret", "secret", "g", "other", "--from", canary, "--secrets", secrets)
	connect("all secrets are there", "secret", "g", "token", "--from", canary, "--secrets", secrets)
	connect(`"tls.key": true`, "status", "g", "--json", "--secrets", secrets)

	connect("/run/secexec/secrets/tls.key 100440 7:8 <nil>\n/run/secexec/secrets/token 100400 0:0", "exec", "g", "--secrets", secrets, "--", "init", "stat", "/run/secexec/secrets/tls.key", "/run/secexec/secrets/token")
	connect("canary-of-the-channel", "exec", "g", "--secrets", secrets, "--", "/sbin/init", "cat", "/run/secexec/secrets/token")
	t.Log(connect("@guestagent", "exec", "g", "--secrets", secrets, "--", "/sbin/init", "ps", "/proc/mounts"))
	refused("no such program", "exec", "g", "--secrets", secrets, "--", "/bin/none")
	refused("leaves", "exec", "g", "--secrets", secrets, "--", "init", "exit", "7")
	refused("init of its own", "restart", "g", "--secrets", secrets)
	refused("init of its own", "logs", "g", "--secrets", secrets)
	if strings.Contains(n.console("g"), "canary-of-the-channel") {
		t.Error("a secret is on the console")
	}
}
