package platform

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/secexec/secexec/hostagent/qemu"
)

var update = flag.Bool("update", false, "write golden files")

const (
	hashA = "aa00000000000000000000000000000000000000000000000000000000000001"
	hashB = "bb00000000000000000000000000000000000000000000000000000000000002"
	none  = "0000000000000000000000000000000000000000000000000000000000000000"
)

// seNode is the part of a Secure Execution node's file tree that is read.
func seNode() fstest.MapFS {
	return fstest.MapFS{
		protVirtKey:    {Data: []byte("1\n")},
		uvKeysAll:      {Data: []byte(hashA + "\n" + hashB + "\n" + strings.Repeat(none+"\n", 13))},
		kvmDevice:      {Mode: fs.ModeDevice | 0o660},
		"proc/meminfo": {Data: []byte("MemTotal:        2097152 kB\nMemFree: 1 kB\n")},
	}
}

func TestSECheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(fstest.MapFS)
		words  string // "": passes
	}{
		{"node with everything", func(fstest.MapFS) {}, ""},
		{"not a Z machine", func(m fstest.MapFS) { clear(m) }, "no /sys/firmware/uv"},
		{"prot_virt off", func(m fstest.MapFS) { m[protVirtKey] = &fstest.MapFile{Data: []byte("0\n")} }, "prot_virt=1"},
		{"unknown value", func(m fstest.MapFS) { m[protVirtKey] = &fstest.MapFile{Data: []byte("2\n")} }, `"2\n"`},
		{"no value", func(m fstest.MapFS) { delete(m, protVirtKey) }, "prot_virt_host"},
		{"secure guest, not host", func(m fstest.MapFS) {
			delete(m, protVirtKey)
			m[uvDir+"/prot_virt_guest"] = &fstest.MapFile{Data: []byte("1\n")}
		}, "prot_virt_host"},
		{"endless value", func(m fstest.MapFS) {
			m[protVirtKey] = &fstest.MapFile{Data: []byte(strings.Repeat("1", maxSmallFile+1))}
		}, "more than"},
		{"no kvm", func(m fstest.MapFS) { delete(m, kvmDevice) }, "/dev/kvm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := seNode()
			c.change(m)
			err := SE{Root: m}.Check(t.Context())
			switch {
			case c.words == "":
				if err != nil {
					t.Error(err)
				}
			case !errors.Is(err, ErrNoSecureExecution) || !strings.Contains(err.Error(), c.words):
				t.Errorf("error %v, want one about %s", err, c.words)
			}
		})
	}
}

func TestSEHostKeyHashes(t *testing.T) {
	t.Parallel()
	m := seNode()
	p := SE{Root: m}
	got, err := p.HostKeyHashes()
	if err != nil || len(got) != 2 || got[0][0] != 0xaa || got[0][31] != 1 || got[1][0] != 0xbb {
		t.Errorf("hashes %x, %v", got, err)
	}
	m[uvKeysAll] = &fstest.MapFile{Data: []byte(strings.Repeat(none+"\n", 15))}
	if _, err := p.HostKeyHashes(); !errors.Is(err, ErrHashesUnknown) {
		t.Errorf("no key: %v", err)
	}
	delete(m, uvKeysAll)
	if _, err := p.HostKeyHashes(); !errors.Is(err, ErrHashesUnknown) {
		t.Errorf("kernel that does not tell: %v", err)
	}
	m[uvKeysAll] = &fstest.MapFile{Data: []byte("x\n")}
	if _, err := p.HostKeyHashes(); err == nil || errors.Is(err, ErrHashesUnknown) {
		t.Errorf("garbage: %v", err)
	}
}

func TestParseKeyHashes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		n          int // -1: refused
	}{
		{"empty", "", 0},
		{"one", hashA + "\n", 1},
		{"same twice", hashA + "\n" + hashA + "\n", 1},
		{"unused places between", none + "\n" + hashA + "\n" + none + "\n" + hashB + "\n", 2},
		{"a page of sysfs", strings.Repeat(hashA+"\n", 63), 1},
		{"over a page", strings.Repeat(hashA+"\n", 64), -1},
		{"no line end", hashA, -1},
		{"upper case", strings.ToUpper(hashA) + "\n", -1},
		{"short line", hashA[:63] + "\n", -1},
		{"long line", hashA + "0\n", -1},
		{"not hex", strings.Repeat("g", 64) + "\n", -1},
		{"CR LF", hashA + "\r\n", -1},
		{"0x", "0x" + hashA[2:] + "\n", -1},
		{"line end inside", hashA[:32] + "\n" + hashA[:31] + "\n", -1},
	} {
		got, err := parseKeyHashes([]byte(c.text))
		if (err != nil) != (c.n < 0) || len(got) != max(c.n, 0) {
			t.Errorf("%s: %d hashes, %v; want %d", c.name, len(got), err, c.n)
		}
	}
}

func FuzzParseKeyHashes(f *testing.F) {
	f.Add([]byte(hashA + "\n" + none + "\n"))
	f.Add([]byte(strings.Repeat(hashB+"\n", 15)))
	f.Fuzz(func(t *testing.T, text []byte) {
		hashes, err := parseKeyHashes(text)
		if err != nil && hashes != nil {
			t.Errorf("error %v with %d hashes", err, len(hashes))
		}
		for _, h := range hashes {
			if h == ([32]byte{}) {
				t.Error("an unused place counts as a key")
			}
		}
	})
}

// guest is what hostagent fills in before a platform does.
func guest() *qemu.Config {
	return &qemu.Config{
		Name: "web-1", UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", Binary: "qemu-system-s390x",
		MemoryMiB: 512, CPUs: 2, Kernel: "/var/lib/secexec/guests/web-1/boot.seimg",
		Disks:           []qemu.Disk{{Path: "/var/lib/secexec/guests/web-1/root.img", Serial: "root"}},
		ConsolePath:     "/var/lib/secexec/guests/web-1/console.log",
		ReadinessSocket: "/run/secexec/guests/web-1/readiness.sock",
		QMPSocket:       "/run/secexec/guests/web-1/qmp.sock",
		RuntimeDir:      "/run/secexec/guests/web-1",
		Sandbox:         true,
	}
}

// The whole argument vector of each platform; docs/platforms.md explains it row
// by row.
func TestArgumentVectors(t *testing.T) {
	t.Parallel()
	for _, p := range []Platform{SE{}, Emulated{}} {
		cfg := guest()
		// What another platform left is overwritten.
		cfg.Accel, cfg.GDBSocket, cfg.MemoryFile, cfg.Confidential = "x", "x", "x", p.Name() == NameEmulated
		p.Configure(cfg)
		argv, err := qemu.Args(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		b.WriteString(argv[0])
		for _, arg := range argv[1:] {
			if strings.HasPrefix(arg, "-") {
				b.WriteString("\n" + arg)
			} else {
				b.WriteString(" " + arg)
			}
		}
		got := b.String() + "\n"
		path := filepath.Join("testdata", p.Name()+".argv")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
		}
	}
}
