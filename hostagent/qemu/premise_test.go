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

	"golang.org/x/sys/unix"
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
	c.ChannelSocket = filepath.Join(dir, "channel.sock")
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

// run starts QEMU with its files handed over; it is killed at the test's end.
func run(t *testing.T, c *Config) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	files, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(files)
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = files
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
	for _, path := range []string{c.GDBSocket, c.ReadinessSocket, c.ChannelSocket} {
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

	// A second client waits for the first to leave; then QMP serves it. QEMU has
	// listened anew on the socket it was handed, so now the socket names it: whoever
	// connected before then saw the process that bound it.
	m.Close()
	m = dial(t, c, words)
	if pid, err := m.PeerPID(); err != nil || pid != cmd.Process.Pid {
		t.Errorf("QMP is served by process %d (%v), want %d", pid, err, cmd.Process.Pid)
	}
	checkDescriptors(t, c, cmd.Process.Pid)
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

// checkDescriptors wants QEMU to have of our files what it was handed, and nothing
// else of ours: of regular files the console, the image, the memory and the disks.
func checkDescriptors(t *testing.T, c *Config, pid int) {
	t.Helper()
	expected := map[string]bool{"/dev/null": true}
	for _, h := range c.files() {
		expected[h.path] = true
	}
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	held := make(map[string]int)
	for _, e := range entries {
		target, err := os.Readlink(dir + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		held[target]++
		for _, kernels := range []string{"anon_inode:", "socket:", "pipe:"} {
			expected[target] = expected[target] || strings.HasPrefix(target, kernels)
		}
		if !expected[target] {
			t.Errorf("QEMU holds %s", target)
		}
	}
	for _, path := range []string{c.ConsolePath, c.Kernel, c.MemoryFile, c.Disks[0].Path} {
		if held[path] == 0 {
			t.Errorf("QEMU does not hold %s", path)
		}
	}
}

// What Open refuses, and what it leaves behind.
func TestOpenRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(c *Config)
		words string
	}{
		{"disk is missing", func(c *Config) { os.Remove(c.Disks[1].Path) }, "no such file"},
		{"disk is a pipe", func(c *Config) {
			os.Remove(c.Disks[0].Path)
			if err := unix.Mkfifo(c.Disks[0].Path, 0o600); err != nil {
				t.Error(err)
			}
		}, "neither a file nor a block device"},
		{"disk is a folder", func(c *Config) { c.Disks[1].Path = c.RuntimeDir }, "neither a file"},
		{"image is missing", func(c *Config) { os.Remove(c.Kernel) }, "no such file"},
		{"memory is there already", func(c *Config) { os.WriteFile(c.MemoryFile, nil, 0o600) }, "file exists"},
		{"console is a link", func(c *Config) { os.Symlink(c.Kernel, c.ConsolePath) }, "symbolic links"},
		{"socket is there already", func(c *Config) { os.WriteFile(c.QMPSocket, nil, 0o600) }, "address already in use"},
		{"configuration is wrong", func(c *Config) { c.CPUs = 0 }, "0 CPUs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := paused(t, "qemu-system-s390x")
			c.spoil(cfg)
			files, err := Open(t.Context(), cfg)
			if err == nil {
				Close(files)
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %q", err, c.words)
			}
		})
	}
}

// A socket that was opened for QEMU takes clients before QEMU runs, and an image
// for all to read loses no other protection.
func TestOpenedFiles(t *testing.T) {
	t.Parallel()
	c := paused(t, "qemu-system-s390x")
	files, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(files)
	for _, path := range []string{c.QMPSocket, c.ReadinessSocket, c.ChannelSocket, c.GDBSocket} {
		conn, err := DialSocket(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	for path, mode := range map[string]os.FileMode{c.Kernel: 0o644, c.ConsolePath: 0o600, c.MemoryFile: 0o666, c.Disks[0].Path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
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
