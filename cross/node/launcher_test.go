package node

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/owner"
)

// machine is a node with systemd as its first process; see cross/node.sh.
type machine struct {
	t    *testing.T
	dir  string // folder of the base
	name string
}

// newMachine starts a node. It skips where none can be, or where the base with its
// packages was not built yet.
func newMachine(t *testing.T, packages ...string) *machine {
	t.Helper()
	dir := os.Getenv("SECEXEC_NODE_DIR")
	if dir == "" {
		dir = filepath.Join(cache(), "node")
	}
	if os.Geteuid() != 0 {
		t.Skip("a node needs root")
	}
	have, err := os.ReadFile(filepath.Join(dir, "base.packages"))
	for _, p := range append(packages, "dbus") {
		if !strings.Contains("\n"+string(have), "\n"+p+"\n") {
			t.Skipf("no node with %s in %s (%v): run cross/node.sh -d %s build dbus %s", p, dir, err, dir, strings.Join(packages, " "))
		}
	}
	m := &machine{t, dir, "launcher-" + strconv.Itoa(os.Getpid()) + "-" + strings.ToLower(regexp.MustCompile(`[^a-zA-Z0-9]`).ReplaceAllString(t.Name(), ""))}
	t.Cleanup(func() { m.script("stop") })
	if out, err := m.script("start"); err != nil {
		t.Fatalf("start node: %v\n%s", err, out)
	}
	return m
}

func cache() string {
	if dir := os.Getenv("SECEXEC_CACHE"); dir != "" {
		return dir
	}
	dir, _ := filepath.Abs("../../.cache")
	return dir
}

func (m *machine) script(args ...string) (string, error) {
	// Files in place of pipes: what goes on in the node holds them open.
	out, err := os.CreateTemp("", "node")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../node.sh", append([]string{"-d", m.dir, "-N", m.name, "-n"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if err == nil {
		err = readErr
	}
	return string(text), err
}

// try runs a command in the node.
func (m *machine) try(args ...string) (string, error) {
	return m.script(append([]string{"exec"}, args...)...)
}

// run is try for what must succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%q in the node: %v\n%s", args, err, out)
	}
	return out
}

func (m *machine) copy(from, to string) {
	m.t.Helper()
	if out, err := m.script("copy", from, to); err != nil {
		m.t.Fatalf("copy %s into the node: %v\n%s", from, err, out)
	}
}

// until waits for a condition in the node.
func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			out, _ := m.try("journalctl", "-n", "40", "--no-pager")
			m.t.Fatalf("node: %s did not come to pass\n%s", what, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func goBuild(t *testing.T, out, arch string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append(args[:1:1], append([]string{"-trimpath", "-ldflags", "-s -w", "-o", out}, args[1:]...)...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %q: %v\n%s", args, err, text)
	}
	return out
}

// The launcher's own tests against a real systemd.
func TestLauncher(t *testing.T) {
	m := newMachine(t)
	m.copy(goBuild(t, filepath.Join(t.TempDir(), "launch.test"), "", "test", "-c", "../../hostagent/launch"), "/usr/local/bin/launch.test")
	out := m.run("/usr/local/bin/launch.test", "-test.v", "-test.run", "Unit", "-test.timeout", "4m")
	if !strings.Contains(out, "--- PASS: TestUnitOutlivesItsLauncher") { // which runs with a real systemd only
		t.Errorf("the launcher's tests did not run:\n%s", out)
	}
}

// smallGuest builds a bundle whose root holds one program, and the emulated host
// that it is for.
func smallGuest(t *testing.T) (bundle, host string) {
	t.Helper()
	vmlinuz := filepath.Join(cache(), "kernel/vmlinuz")
	if _, err := os.Stat(vmlinuz); err != nil {
		t.Skip("no s390x kernel in " + cache() + ": run cross/setup.sh")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	goBuild(t, filepath.Join(root, "sbin/init"), "s390x", "build", "../booted/testinit")
	for _, p := range []string{"guestinit", "guestagent"} {
		goBuild(t, filepath.Join(dir, p), "s390x", "build", "../../"+p)
	}
	host = filepath.Join(dir, "host")
	if _, err := hostkeytest.WriteHost(host, "host"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(host, "host.crt"))
	if err != nil {
		t.Fatal(err)
	}
	doc, _, err := hostkey.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	bundle = filepath.Join(dir, "bundle")
	_, err = owner.Build(t.Context(), owner.Plan{
		Name: "small", Kernel: kernel.Source{Kernel: []string{vmlinuz}, Modules: []string{filepath.Join(cache(), "kernel/modules")}},
		Root: owner.FileSystem{Source: root}, GuestDir: dir, Init: "/sbin/init", StopSignal: 38, MemoryMiB: 256,
		Hosts: []*hostkey.Document{doc}, Bundle: bundle, Secrets: bundle + "-secrets",
	})
	if err != nil {
		t.Fatal(err)
	}
	return bundle, host
}

const hostagentUnit = `[Service]
Type=notify
ExecStart=/usr/local/bin/hostagent --platform emulated --emulated-host /root/host --launcher auto
Restart=always
RestartSec=0
KillMode=process
`

// guestOf is a guest as secexec inspect shows it.
func (m *machine) guestOf(name string) map[string]any {
	m.t.Helper()
	var g map[string]any
	if err := json.Unmarshal([]byte(m.run("secexec", "inspect", "--json", name)), &g); err != nil {
		m.t.Fatal(err)
	}
	return g
}

// A sealed guest under a hostagent that systemd runs: in a unit of its own,
// confined; it outlives hostagent's kill, and its end is told with its status.
func TestGuestInUnit(t *testing.T) {
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	m := newMachine(t, "qemu-system-misc")
	bundle, host := smallGuest(t)
	programs := t.TempDir()
	m.copy(goBuild(t, filepath.Join(programs, "hostagent"), "", "build", "../../hostagent"), "/usr/local/bin/hostagent")
	m.copy(goBuild(t, filepath.Join(programs, "secexec"), "", "build", "../../cmd/secexec"), "/usr/local/bin/secexec")
	m.copy(host, "/root/host")
	m.copy(bundle, "/root/small")
	unit := filepath.Join(programs, "hostagent.service")
	if err := os.WriteFile(unit, []byte(hostagentUnit), 0o644); err != nil {
		t.Fatal(err)
	}
	m.copy(unit, "/etc/systemd/system/hostagent.service")
	m.run("chmod", "600", "/root/host/host.key")
	m.run("systemctl", "start", "hostagent")

	m.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	m.run("secexec", "run", "--network", "tap=tap0", "/root/small")
	const guest = "secexec-guest-small.service"
	pid := strings.TrimSpace(m.run("systemctl", "show", "-P", "MainPID", guest))
	t.Log(m.run("systemctl", "status", guest))

	t.Run("confined", func(t *testing.T) {
		m := &machine{t, m.dir, m.name}
		if uid := strings.TrimSpace(m.run("stat", "-c", "%u", "/proc/"+pid)); uid < "61184" || uid > "65519" {
			t.Errorf("QEMU runs as user %s, no dynamic one", uid)
		}
		if exe := m.run("readlink", "/proc/"+pid+"/exe"); !strings.Contains(exe, "qemu-system-s390x") {
			t.Errorf("main process runs %s", exe)
		}
		status := m.run("cat", "/proc/"+pid+"/status")
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in\n%s", want, status)
			}
		}
		for _, bound := range []string{"MemoryMax=805306368", "TasksMax=512", "LimitCORE=0", "OOMPolicy=kill", "Slice=secexec.slice"} { // 256 + 512 MiB
			name, _, _ := strings.Cut(bound, "=")
			if got := strings.TrimSpace(m.run("systemctl", "show", "-p", name, guest)); got != bound {
				t.Errorf("the unit has %s, want %s", got, bound)
			}
		}
		// Beside the guest's memory, a shared file here, QEMU takes less than its
		// unit's allowance.
		anonymous := regexp.MustCompile(`RssAnon:\s+([0-9]+) kB`).FindStringSubmatch(status)
		if anonymous == nil {
			t.Fatalf("no RssAnon in\n%s", status)
		}
		kib, err := strconv.Atoi(anonymous[1])
		t.Logf("QEMU takes %d MiB of its own", kib>>10)
		if err != nil || kib > launch.OverheadTranslated>>10 {
			t.Errorf("QEMU takes %s KiB of its own", anonymous[1])
		}
		out, _ := m.try("systemd-analyze", "security", "--no-pager", guest)
		t.Log(out)
		found := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("systemd-analyze says\n%s", out)
		}
		if exposure, err := strconv.ParseFloat(found[1], 64); err != nil || exposure > 1.5 {
			t.Errorf("exposure %s, wants at most 1.5", found[1])
		}
		for _, line := range strings.Split(strings.TrimSpace(m.run("sh", "-c", "for f in /proc/"+pid+"/fd/*; do readlink $f; done")), "\n") {
			if !regexp.MustCompile(`^(/dev/null|/var/lib/secexec/guests/small/\S+|/run/secexec/guests/small/ram.*|/dev/net/tun|socket:.*|pipe:.*|anon_inode:.*)$`).MatchString(line) {
				t.Errorf("QEMU holds %s", line)
			}
		}
	})

	before := m.guestOf("small")
	if before["unit"] != guest {
		t.Errorf("the guest's unit is told as %v", before["unit"])
	}
	m.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "hostagent")
	m.until("hostagent came back", func() bool { _, err := m.try("secexec", "ps"); return err == nil })
	if now := strings.TrimSpace(m.run("systemctl", "show", "-P", "MainPID", guest)); now != pid {
		t.Fatalf("QEMU was process %s, is %s", pid, now)
	}
	m.until("guest is ready again", func() bool { return m.guestOf("small")["state"] == before["state"] })

	ended := func(words string) {
		t.Helper()
		m.until("guest failed", func() bool { return m.guestOf("small")["state"] == "failed" })
		if g, _ := json.Marshal(m.guestOf("small")); !bytes.Contains(g, []byte(words)) {
			t.Errorf("QEMU's end is told as %s, want %q", g, words)
		}
		m.until("the unit vanished", func() bool {
			return strings.TrimSpace(m.run("systemctl", "list-units", "--all", "--no-legend", "secexec-guest-*")) == ""
		})
	}
	m.run("sh", "-c", "kill -SEGV "+pid)
	ended("ended: killed by signal 11")

	// Once more, and it ends while no hostagent runs.
	m.run("secexec", "start", "small")
	m.run("systemctl", "stop", "hostagent")
	m.run("systemctl", "kill", "-s", "ABRT", guest)
	m.until("QEMU ended", func() bool { return strings.TrimSpace(m.run("systemctl", "show", "-P", "SubState", guest)) == "failed" })
	m.run("systemctl", "start", "hostagent")
	ended("ended while no hostagent ran: killed by signal 6")
}
