package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/secexec/secexec/hostagent/qemu"
)

var update = flag.Bool("update", false, "write golden files")

// z16 is a machine with all that there is; testdata/z16 has its files.
func z16(t *testing.T) (Machine, fstest.MapFS) {
	t.Helper()
	tree := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS("testdata/z16"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join("testdata/z16", path))
		tree[path] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return Machine{
		Root: tree, Arch: "s390x", CPUs: 8,
		Open:  func(string) error { return nil },
		Space: func(string) (Space, error) { return Space{"xfs", 200 << 30, 500 << 30}, nil },
		QEMU: func(_ context.Context, _, accel string) (qemu.Capabilities, error) {
			return qemu.Capabilities{Release: qemu.Release{Major: 10, Micro: 2, Package: "Debian 1:10.0.2+ds-2", Sandbox: true}, PVGuest: true, Unpack: accel == "kvm"}, nil
		},
		Systemd: func(context.Context) (int, error) { return 257, nil },
	}, tree
}

var options = Options{QEMU: "qemu-system-s390x", State: "/var/lib/secexec"}

func text(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%s %s: %s\n", f.Result, f.Check, f.Says)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "     %s\n", f.Remedy)
		}
	}
	return b.String()
}

// Whole reports: a node with everything, and a machine that has nothing of it.
func TestReports(t *testing.T) {
	t.Parallel()
	good, _ := z16(t)
	bare, _ := z16(t)
	bare.Root, bare.Arch = fstest.MapFS{}, "x86_64"
	bare.Open = func(path string) error { return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist} }
	bare.QEMU = func(context.Context, string, string) (qemu.Capabilities, error) {
		return qemu.Capabilities{}, qemu.ErrMissing
	}
	bare.Systemd = func(context.Context) (int, error) { return 0, nil }
	bare.Space = func(string) (Space, error) { return Space{"overlay", 1 << 30, 2 << 30}, nil }
	for name, m := range map[string]Machine{"z16": good, "bare": bare} {
		findings := Check(t.Context(), m, options)
		if got, want := Worst(findings), map[string]Result{"z16": Pass, "bare": Fail}[name]; got != want {
			t.Errorf("%s: worst is %s, want %s", name, got, want)
		}
		path := filepath.Join("testdata", name+".report")
		if *update {
			if err := os.WriteFile(path, []byte(text(findings)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(findings); got != string(want) {
			t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
		}
	}
}

// Each line of the report, with what makes it say something else.
func TestChecks(t *testing.T) {
	t.Parallel()
	set := func(name, text string) func(*Machine, fstest.MapFS, *Options) {
		return func(_ *Machine, tree fstest.MapFS, _ *Options) { tree[name] = &fstest.MapFile{Data: []byte(text)} }
	}
	remove := func(names ...string) func(*Machine, fstest.MapFS, *Options) {
		return func(_ *Machine, tree fstest.MapFS, _ *Options) {
			for file := range tree {
				for _, name := range names {
					if file == name || strings.HasPrefix(file, name+"/") {
						delete(tree, file)
					}
				}
			}
		}
	}
	program := func(change func(*qemu.Capabilities), err error) func(*Machine, fstest.MapFS, *Options) {
		return func(m *Machine, _ fstest.MapFS, _ *Options) {
			ask := m.QEMU
			m.QEMU = func(ctx context.Context, binary, accel string) (qemu.Capabilities, error) {
				c, _ := ask(ctx, binary, accel)
				if change != nil {
					change(&c)
				}
				return c, err
			}
		}
	}
	kvm := func(err error) func(*Machine, fstest.MapFS, *Options) {
		return func(m *Machine, _ fstest.MapFS, _ *Options) {
			m.Open = func(path string) error { return &fs.PathError{Op: "open", Path: path, Err: err} }
		}
	}
	disk := func(s Space, err error) func(*Machine, fstest.MapFS, *Options) {
		return func(m *Machine, _ fstest.MapFS, _ *Options) { m.Space = func(string) (Space, error) { return s, err } }
	}
	emulated := func(_ *Machine, _ fstest.MapFS, o *Options) { o.Emulated = true }
	for _, c := range []struct {
		name   string
		change func(*Machine, fstest.MapFS, *Options)
		check  string
		result Result
		words  string // in what it says or in its remedy
	}{
		{"other machine", func(m *Machine, _ fstest.MapFS, _ *Options) { m.Arch = "aarch64" }, "machine", Fail, "aarch64"},
		{"no facility", set("proc/cpuinfo", "facilities : 0 1 2 1580\n"), "facility-158", Fail, "feature code 115"},
		{"no cpuinfo", remove("proc/cpuinfo"), "facility-158", Fail, "mount /proc"},
		{"no ultravisor", remove("sys/firmware/uv"), "ultravisor", Fail, "Linux 5.7"},
		{"no parameter", func(m *Machine, tree fstest.MapFS, o *Options) {
			set(hostFile, "0\n")(m, tree, o)
			set("proc/cmdline", "quiet\n")(m, tree, o)
		}, "prot-virt-host", Fail, "add prot_virt=1"},
		{"parameter of no avail", set(hostFile, "0\n"), "prot-virt-host", Fail, "although the kernel was given"},
		{"parameter taken back", func(m *Machine, tree fstest.MapFS, o *Options) {
			set(hostFile, "0\n")(m, tree, o)
			set("proc/cmdline", "prot_virt=1 prot_virt=0\n")(m, tree, o)
		}, "prot-virt-host", Fail, "was not given"},
		{"host without the parameter in sight", set("proc/cmdline", "quiet\n"), "prot-virt-host", Pass, ""},
		{"strange value", set(hostFile, "yes\n"), "prot-virt-host", Fail, "neither"},
		{"secure guest", set(uvDir+"/prot_virt_guest", "1\n"), "prot-virt-host", Fail, "secure guest itself"},
		{"no value", remove(hostFile), "prot-virt-host", Fail, "modprobe kvm|kernel module kvm"},
		{"old kernel", remove(uvDir + "/query"), "ultravisor-limits", Warn, "Linux 6.0"},
		{"garbled limit", set(uvDir+"/query/max_cpus", "many\n"), "ultravisor-limits", Warn, "max_cpus"},
		{"header version", set(uvDir+"/query/supp_se_hdr_ver", "4000000000000000\n"), "image-format", Fail, "0x100"},
		{"control flags", set(uvDir+"/query/supp_se_hdr_pcf", "300000c3\n"), "image-format", Warn, "300000c3"},
		{"no dump", set(uvDir+"/query/facilities", "ff1ffe0000000000\n0\n0\n0\n"), "protected-dump", Warn, "secexec dump"},
		{"keys unknown", remove(uvDir + "/keys"), "host-keys", Warn, "Linux 6.10"},
		{"keys garbled", set(uvDir+"/keys/all", "x\n"), "host-keys", Warn, "whole lines"},
		{"no KVM", kvm(fs.ErrNotExist), "kvm-device", Fail, "modprobe kvm"},
		{"KVM for others", kvm(fs.ErrPermission), "kvm-device", Fail, "group kvm"},
		{"KVM broken", kvm(errors.New("no such device")), "kvm-device", Fail, "no such device"},
		{"huge pages", set(hpage, "1\n"), "kvm-hpage", Warn, "hpage=0"},
		{"no KVM module", remove(hpage), "kvm-hpage", Warn, "modprobe"},
		{"no QEMU", program(nil, qemu.ErrMissing), "qemu", Fail, "qemu-system-misc"},
		{"old QEMU", program(nil, qemu.ErrTooOld), "qemu", Fail, "7.2"},
		{"QEMU that fails", program(nil, errors.New("exit status 1: no KVM")), "qemu", Fail, "no KVM"},
		{"QEMU without the object", program(func(c *qemu.Capabilities) { c.PVGuest = false }, nil), "qemu-pv-guest", Fail, "built with KVM"},
		{"CPU without unpack", program(func(c *qemu.Capabilities) { c.Unpack = false }, nil), "cpu-unpack", Fail, "unpack"},
		{"no seccomp", program(func(c *qemu.Capabilities) { c.Release.Sandbox = false }, nil), "qemu-sandbox", Warn, "seccomp"},
		{"state in memory", disk(Space{"tmpfs", 200 << 30, 500 << 30}, nil), "state-folder", Warn, "next boot"},
		{"state on a network", disk(Space{"nfs", 200 << 30, 500 << 30}, nil), "state-folder", Warn, "one hostagent only"},
		{"no state", disk(Space{}, fs.ErrPermission), "state-folder", Fail, "permission"},
		{"little room", disk(Space{"ext4", 1 << 30, 500 << 30}, nil), "state-space", Warn, "make room"},
		{"no meminfo", remove("proc/meminfo"), "memory", Fail, "mount /proc"},
		{"strict memory", set("proc/sys/vm/overcommit_memory", "2\n"), "memory-overcommit", Warn, "vm.overcommit_memory=0"},
		{"swap", set("proc/swaps", "Filename\n/dev/dasdb1 partition 1 2 3\n"), "swap", Pass, "encrypted by firmware"},
		{"swap of the emulated", func(m *Machine, tree fstest.MapFS, o *Options) {
			emulated(m, tree, o)
			set("proc/swaps", "Filename\n/dev/vdb partition 1 2 3\n")(m, tree, o)
		}, "swap", Warn, "plain text"},
		{"no systemd", func(m *Machine, _ fstest.MapFS, _ *Options) {
			m.Systemd = func(context.Context) (int, error) { return 0, nil }
		}, "systemd", Warn, "own children"},
		{"old systemd", func(m *Machine, _ fstest.MapFS, _ *Options) {
			m.Systemd = func(context.Context) (int, error) { return 239, nil }
		}, "systemd", Warn, "239"},
		{"silent systemd", func(m *Machine, _ fstest.MapFS, _ *Options) {
			m.Systemd = func(context.Context) (int, error) { return 0, errors.New("exit status 1") }
		}, "systemd", Warn, "exit status 1"},
		{"cgroup v1", remove("sys/fs/cgroup"), "cgroup-v2", Warn, "unified_cgroup_hierarchy"},
		{"cgroup without memory", set("sys/fs/cgroup/cgroup.controllers", "cpu cpuset pids\n"), "cgroup-v2", Warn, "io, memory"},
		{"no tun", remove("dev/net/tun"), "tun", Warn, "modprobe tun"},
		{"no vsock", remove("dev/vhost-vsock"), "vhost-vsock", Warn, "modprobe vhost_vsock"},
		{"emulated", emulated, "platform", Warn, "protects nothing"},
		{"emulated beside the real one", emulated, "emulated-host", Fail, "has Secure Execution"},
		{"emulated without a host", func(m *Machine, tree fstest.MapFS, o *Options) { emulated(m, tree, o); o.Force = true }, "emulated-host", Fail, "emulate init"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, tree := z16(t)
			o := options
			c.change(&m, tree, &o)
			for _, f := range Check(t.Context(), m, o) {
				if f.Check != c.check {
					continue
				}
				found := c.words == ""
				for _, w := range strings.Split(c.words, "|") {
					found = found || strings.Contains(f.Says+f.Remedy, w)
				}
				if f.Result != c.result || !found || (f.Result == Pass) != (f.Remedy == "") {
					t.Errorf("%+v; want %s about %q", f, c.result, c.words)
				}
				return
			}
			t.Errorf("no line %s", c.check)
		})
	}
}

func TestProtVirt(t *testing.T) {
	t.Parallel()
	for cmdline, want := range map[string]bool{
		"prot_virt=1": true, "a prot_virt=on b": true, "prot_virt=oN": true, "prot_virt=y": true, "prot_virt=True": true,
		"": false, "prot_virt": false, "prot_virt=": false, "prot_virt=0": false, "prot_virt=off": false, "prot_virt=o": false, "noprot_virt=1": false, "prot_virt=2": false,
		"prot_virt=0 prot_virt=1": true, "prot_virt=1 prot_virt=n": false,
	} {
		if got := protVirt(cmdline); got != want {
			t.Errorf("%q: %t", cmdline, got)
		}
	}
}

// The real machine answers each question, whatever it is.
func TestLocal(t *testing.T) {
	t.Parallel()
	m := Local()
	if m.Arch == "" || m.CPUs < 1 {
		t.Errorf("%+v", m)
	}
	s, err := m.Space(filepath.Join(t.TempDir(), "not", "there", "yet"))
	if err != nil || s.Kind == "" || s.Total == 0 || s.Free > s.Total {
		t.Errorf("%+v, %v", s, err)
	}
	if err := m.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if findings := Check(t.Context(), m, Options{QEMU: "no-such-qemu", State: t.TempDir(), Emulated: true}); Worst(findings) != Fail {
		t.Errorf("a node without QEMU passes:\n%s", text(findings))
	}
}

func TestParseSystemd(t *testing.T) {
	t.Parallel()
	for out, want := range map[string]int{"systemd 252 (252.38-1~deb12u1)\n+PAM": 252, "systemd 257": 257, "": 0, "systemd": 0, "systemd x": 0, "upstart 1": 0, "systemd -3": 0} {
		if got, err := parseSystemd(out); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", out, got, err)
		}
	}
}
