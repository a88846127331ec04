package qemu

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Guests keep their addresses for as long as they live: these never change. The
// page lists them for whoever makes addresses by another program.
func TestMACVectors(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/platforms.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| ([0-9a-f-]{36}) \| ([0-9]) \| ([0-9a-f:]{17}) \|$`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != 4 || rows[0][3] != "ca:5d:e8:31:93:8e" {
		t.Fatalf("vectors %q", rows)
	}
	for _, row := range rows {
		got, err := MAC(row[1], int(row[2][0]-'0'))
		if err != nil || got != row[3] {
			t.Errorf("MAC(%s, %s) = %s, %v; want %s", row[1], row[2], got, err, row[3])
		}
		n := Net{MAC: got, User: true}
		if err := n.check(); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		uuid  string
		index int
	}{{"6d1f3d90", 0}, {"6D1F3D90-8C86-4A2F-9D3C-3D2F1E0A9B8C", 0}, {"", 0}, {"6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", -1}, {"6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", MaxNets}} {
		if got, err := MAC(c.uuid, c.index); err == nil {
			t.Errorf("MAC(%s, %d) = %s", c.uuid, c.index, got)
		}
	}
}

// What sysfs says of interfaces, and what an operator is told.
func TestCheckTap(t *testing.T) {
	t.Parallel()
	sysfs := t.TempDir()
	for name, flags := range map[string]string{"tap0": "0x1002\n", "tap4": "0x1902\n", "tun0": "0x1001\n", "odd": "x\n", "eth0": ""} {
		dir := filepath.Join(sysfs, "class/net", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if flags == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "tun_flags"), []byte(flags), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		queues int
		flags  uint16
		words  string
	}{
		{"tap0", 1, 0x5002, ""}, {"tap4", 4, 0x5102, ""},
		{"tap4", 1, 0x5102, ""}, // the flag is the interface's, not the request's
		{"tap0", 2, 0, "multi_queue"}, {"tap9", 1, 0, "ip tuntap add dev tap9 mode tap"}, {"tap9", 2, 0, "multi_queue"},
		{"eth0", 1, 0, "no tap interface"}, {"tun0", 1, 0, "without Ethernet"}, {"odd", 1, 0, "flags of odd"}, {"../x", 1, 0, "no interface name"},
	} {
		flags, err := CheckTap(sysfs, c.name, c.queues)
		if flags != c.flags || (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("CheckTap(%s, %d) = %#x, %v; want %#x, %q", c.name, c.queues, flags, err, c.flags, c.words)
		}
	}
}
