package booted

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
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

	run := func(want string, args ...string) string {
		t.Helper()
		return connect(want, append([]string{"exec", "g", "--secrets", secrets, "--"}, args...)...)
	}
	run("/run/secexec/secrets/tls.key 100440 7:8 <nil>\n/run/secexec/secrets/token 100400 0:0", "init", "stat", "/run/secexec/secrets/tls.key", "/run/secexec/secrets/token")
	run("canary-of-the-channel", "/sbin/init", "cat", "/run/secexec/secrets/token")
	run("tmpfs /run/secexec/secrets tmpfs rw,nosuid,nodev,noexec", "init", "cat", "/proc/mounts")
	run("0::/secexec/exec-", "init", "cat", "/proc/self/cgroup")
	refused("no such program", "exec", "g", "--secrets", secrets, "--", "/bin/none")
	refused("leaves", "exec", "g", "--secrets", secrets, "--", "init", "exit", "7")
	refused("init of its own", "restart", "g", "--secrets", secrets)
	refused("init of its own", "logs", "g", "--secrets", secrets)

	t.Run("input", func(t *testing.T) { // more than all windows together, both ways
		long := bytes.Repeat([]byte("0123456789abcdef"), 40<<10)
		cmd := n.command("connect", "exec", "-i", "g", "--secrets", secrets, "--", "init", "cat")
		cmd.Stdin = bytes.NewReader(long)
		out, err := cmd.Output()
		if err != nil || !bytes.Equal(out, long) {
			t.Errorf("%v, %d of %d bytes come back", err, len(out), len(long))
		}
	})
	t.Run("terminal", func(t *testing.T) {
		out, status := onTerminal(t, n.command("connect", "exec", "-it", "g", "--secrets", secrets, "--", "init", "size"))
		if status != 0 || !strings.Contains(out, "33 rows, 77 columns") {
			t.Errorf("status %d\n%s", status, out)
		}
	})
	t.Run("killed client", func(t *testing.T) { // its program ends with it, and the next client is let in
		cmd := n.command("connect", "exec", "-i", "g", "--secrets", secrets, "--", "init", "cat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		if _, err := in.Write([]byte("here")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if out, err := n.secexec("connect", "g", "--secrets", secrets); err == nil || !strings.Contains(out, "another client is connected") {
			t.Errorf("a second client: %v\n%s", err, out)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for {
			out, err := n.secexec("connect", "exec", "g", "--secrets", secrets, "--", "init", "programs")
			if err == nil && strings.TrimSpace(out) == "1" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v\n%s", err, out)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	t.Run("clock", func(t *testing.T) { // what time it is matters to nobody
		for _, year := range []string{"1970", "2106", "2026"} {
			run("", "init", "year", year)
			run(year+"\n", "init", "year")
			if out, err := n.secexec("verify", "g", "--identity", secrets+"/identity.pub"); err != nil {
				t.Errorf("verify in %s: %v\n%s", year, err, out)
			}
		}
	})
	t.Run("no memory", func(t *testing.T) { // the kernel takes the program, not guestagent
		cmd := n.command("connect", "exec", "g", "--secrets", secrets, "--", "init", "eat")
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 128+9 {
			t.Errorf("%v\n%s", err, out)
		}
		connect("token there", "status", "g", "--secrets", secrets)
		run("0\n", "init", "cat", "/proc/self/oom_score_adj")
	})
	t.Run("strangers", func(t *testing.T) {
		wrong := filepath.Join(t.TempDir(), "wrong")
		if err := os.WriteFile(wrong, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := n.secexec("connect", "g", "--secrets", secrets, "--key", wrong); err == nil || !strings.Contains(out, "it does not know this key") {
			t.Errorf("another key: %v\n%s", err, out)
		}
		if out, err := n.secexec("connect", "g", "--secrets", secrets, "--identity", small(t)+"-secrets/identity.pub"); err == nil || !strings.Contains(out, "not signed by this image's identity key") {
			t.Errorf("another guest: %v\n%s", err, out)
		}
	})
	t.Run("agent", func(t *testing.T) {
		var rss, switches int
		var score string
		for range 5 { // on a busy machine what came before may not be over; one quiet time is proof
			out := run("VmRSS", "init", "agent")
			for line := range strings.Lines(out) {
				_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &rss)
				_, _ = fmt.Sscanf(line, "switches: %d", &switches)
			}
			if score = out; switches <= 2 {
				t.Log(out)
				break
			}
		}
		if rss == 0 || rss > 12<<10 {
			t.Errorf("guestagent has %d KiB, at most 12 MiB", rss)
		}
		if !strings.Contains(score, "oom_score_adj: -1000\n") {
			t.Errorf("guestagent may be killed for want of memory: %s", score)
		}
		if switches > 2 { // in four seconds, beside what this call itself costs
			t.Errorf("guestagent ran %d times while nobody wanted anything", switches)
		}
	})
	if strings.Contains(n.console("g"), "canary-of-the-channel") {
		t.Error("a secret is on the console")
	}
}

// A workload of guestinit's waits for its secrets; its logs, its restart and
// programs beside it are the owner's alone.
func TestChannelOfWorkload(t *testing.T) {
	t.Parallel()
	small(t)
	p, err := plan("served", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Workload = &owner.Workload{Entrypoint: []string{"/sbin/init", "serve"}, NoNetwork: true}
	p.Channel = owner.Channel{Exec: true, Secrets: []sealed.SecretFile{{Name: "token", Mode: 0o400}}}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	if err := n.launch(p.Bundle, "g"); err != nil {
		t.Fatal(err)
	}
	g := n.until("g", "waiting for its secrets", func(g *hostagentv1.Guest) bool {
		return g.State == "failed" || slices.ContainsFunc(g.Stages, func(s *hostagentv1.Stage) bool { return s.Name == readiness.StageSecrets })
	})
	if g.State != "running" {
		t.Fatalf("guest is %v\n%s", g, n.console("g"))
	}
	connect := func(want string, args ...string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			out, err := n.secexec(append([]string{"connect"}, append(args[:1:1], append([]string{"g", "--secrets", p.Secrets}, args[1:]...)...)...)...)
			if strings.Contains(out, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("connect %q: %v, wants %q\n%s\n%s", args, err, want, out, n.console("g"))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	connect("waiting, 0 restarts", "status")
	connect("does not run yet", "exec", "--", "init", "programs")
	if g, err := n.c.Get(t.Context(), "g"); err != nil || g.State != "running" {
		t.Errorf("without its secrets the guest is %v, %v", g, err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("canary-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := n.secexec("connect", "secret", "g", "token", "--from", file, "--secrets", p.Secrets); err != nil || !strings.Contains(out, "all secrets are there") {
		t.Fatalf("deliver: %v\n%s", err, out)
	}
	if g := n.settled("g"); g.State != "ready" {
		t.Fatalf("guest is %v\n%s", g, n.console("g"))
	}
	connect("secret of 12 bytes, <nil>\n", "logs")
	connect("canary-of-the-log\n", "logs")
	connect("running, 0 restarts", "status")
	connect("1\n", "exec", "--", "init", "programs")
	connect("", "restart")
	connect("running, 1 restarts", "status")
	connect("stops\n", "logs")
	if strings.Contains(n.console("g"), "canary-token") {
		t.Error("a secret is on the console")
	}
}

// onTerminal runs a command on a terminal of 33 rows and 77 columns.
func onTerminal(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal here: %v", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(master) // EIO at the end
	_ = cmd.Wait()
	return string(out), cmd.ProcessState.ExitCode()
}
