package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What we believe of QEMU, asked of the QEMU that is installed.

// withQEMU skips where there is none.
func withQEMU(t *testing.T) (string, Release) {
	t.Helper()
	path, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	r, err := Version(t.Context(), path)
	if errors.Is(err, ErrTooOld) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, r
}

// paused is a configuration that stock QEMU can load without a guest: full with
// real files, translated and stopped.
func paused(t *testing.T, binary string) *Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "qemu") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := full()
	c.Binary, c.Accel, c.CPU, c.Confidential, c.MemoryMiB = binary, "tcg", "max", false, 128
	c.Nets = nil // user mode needs libslirp, which not every build has
	c.RuntimeDir = dir
	c.Kernel = filepath.Join(dir, "kernel,1")
	c.ConsolePath = filepath.Join(dir, "console,1")
	c.QMPSocket = filepath.Join(dir, "q,m p.sock")
	c.GDBSocket = filepath.Join(dir, "gdb.sock")
	c.ReadinessSocket = filepath.Join(dir, "readiness.sock")
	c.MemoryFile = filepath.Join(dir, "ram")
	for i := range c.Disks {
		c.Disks[i].Path = filepath.Join(dir, "disk,"+c.Disks[i].Serial)
		c.Disks[i].Cache = Writeback // the folder may be a tmpfs
		if err := os.WriteFile(c.Disks[i].Path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.Kernel, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// run starts QEMU; it is killed at the test's end.
func run(t *testing.T, c *Config) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	return cmd, start(t, cmd)
}

// start starts a QEMU and returns what it says.
func start(t *testing.T, cmd *exec.Cmd) *bytes.Buffer {
	t.Helper()
	words := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = words, words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return words
}

func dial(t *testing.T, c *Config, words *bytes.Buffer) *Monitor {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, err := Dial(ctx, c.QMPSocket)
	if err != nil {
		t.Fatalf("%v; QEMU says: %s", err, words)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestPremiseQEMUTakesOurArguments(t *testing.T) {
	t.Parallel()
	binary, release := withQEMU(t)
	c := paused(t, binary)
	c.Sandbox = release.Sandbox
	cmd, words := run(t, c)
	m := dial(t, c, words)

	if got := m.Release(); got.String() != release.String() {
		t.Errorf("greeting says %s, -version %s", got, release)
	}
	if pid, err := m.PeerPID(); err != nil || pid != cmd.Process.Pid {
		t.Errorf("QMP is served by process %d (%v), want %d", pid, err, cmd.Process.Pid)
	}
	s, err := m.Status(t.Context())
	if err != nil || s.Running || s.State != "prelaunch" {
		t.Errorf("status %+v, %v; want prelaunch", s, err)
	}
	for _, id := range []string{"serial0", "scsi0", "disk0", "disk2"} {
		var on bool
		if err := m.Property(t.Context(), "/machine/peripheral/"+id, "iommu_platform", &on); err != nil || !on {
			t.Errorf("iommu_platform of %s is %v, %v", id, on, err)
		}
	}
	var serial string
	if err := m.Property(t.Context(), "/machine/peripheral/disk1", "serial", &serial); err != nil || serial != "data" {
		t.Errorf("serial of the SCSI disk is %q, %v", serial, err)
	}
	var devices []struct {
		Name, Type string
	}
	if err := m.Execute(t.Context(), "qom-list", map[string]string{"path": "/machine/unattached"}, &devices); err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if strings.Contains(d.Type, "virtio") || strings.Contains(d.Type, "balloon") {
			t.Errorf("QEMU added %s by itself", d.Type)
		}
	}
	if info, err := os.Stat(c.MemoryFile); err != nil || info.Size() != 128<<20 {
		t.Errorf("memory file: %v", err)
	}
	// The debugger's and the readiness port's sockets are served now.
	for _, path := range []string{c.GDBSocket, c.ReadinessSocket} {
		conn, err := DialSocket(t.Context(), path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		conn.Close()
	}
	if release.Sandbox {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
		if err == nil && !strings.Contains(string(status), "\nSeccomp:\t2") {
			t.Error("QEMU runs without its seccomp filter")
		}
	}

	// A second client waits for the first to leave; then QMP serves it.
	m.Close()
	m = dial(t, c, words)
	var ce *CommandError
	if err := m.Execute(t.Context(), "no-such-command", nil, nil); !errors.As(err, &ce) || ce.Class != "CommandNotFound" {
		t.Errorf("unknown command: %v", err)
	}
	if err := m.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("QEMU: %v: %s", err, words)
	}
	var names []string
	for e := range m.Events() {
		names = append(names, e.Name)
	}
	if !slices.Contains(names, "SHUTDOWN") {
		t.Errorf("events %q, want SHUTDOWN", names)
	}
}

// Two QEMUs never share an image that one of them writes.
func TestPremiseImagesAreLocked(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	first := paused(t, binary)
	_, words := run(t, first)
	dial(t, first, words)
	second := paused(t, binary)
	second.Disks = first.Disks[:1]
	cmd, words := run(t, second)
	if err := cmd.Wait(); err == nil || !strings.Contains(words.String(), "lock") {
		t.Errorf("second QEMU ends with %v: %s", err, words)
	}
}

// A guest whose boot loader gives up (a disabled wait) ends QEMU, so that nothing
// hangs.
func TestPremiseDisabledWaitEndsQEMU(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	// The short PSW at 0 starts it at 0x11000, where it loads, by LPSWE, the
	// PSW at 0x200: disabled wait with code 0x4608, as stage3a does when the
	// ultravisor refused.
	kernel := make([]byte, 128<<10)
	copy(kernel, []byte{0x00, 0x08, 0x00, 0x00, 0x80, 0x01, 0x10, 0x00})
	copy(kernel[0x200:], []byte{0x00, 0x02, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0x46, 0x08})
	copy(kernel[0x11000:], []byte{0xb2, 0xb2, 0x02, 0x00})
	if err := os.WriteFile(c.Kernel, kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, words := run(t, c)
	m := dial(t, c, words)
	if err := m.Cont(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("QEMU: %v: %s", err, words)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("QEMU runs on")
	}
	var panicked *Event
	for e := range m.Events() {
		if e.Name == "GUEST_PANICKED" {
			panicked = &e
		}
	}
	if panicked == nil || !bytes.Contains(panicked.Data, []byte("disabled-wait")) {
		t.Errorf("no GUEST_PANICKED of a disabled wait: %+v", panicked)
	}
}

// Where a secure guest cannot be (no kvm, no unpack facility, or a QEMU built
// without the s390-pv-guest object) QEMU refuses the machine rather than run it
// unprotected.
func TestPremiseConfidentialMachineOrNone(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	for i, arg := range argv {
		if strings.HasPrefix(arg, "s390-ccw-virtio,") {
			argv[i] += ",confidential-guest-support=lsec0"
		}
	}
	argv = append(argv, "-object", `{"qom-type":"s390-pv-guest","id":"lsec0"}`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	refused := strings.Contains(string(out), "Protected Virtualization") || strings.Contains(string(out), "s390-pv-guest")
	if err == nil || ctx.Err() != nil || !refused {
		t.Errorf("QEMU: %v: %s", err, out)
	}
}
