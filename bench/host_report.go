package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func hostRows(o *options) []row[figures] {
	with := fmt.Sprint(o.guests)
	per := func(a, b float64) float64 { return (a - b) / float64(o.guests) }
	return []row[figures]{
		{"PSS idle", "MiB", "", func(f *figures) float64 { return f.Idle.PSS }},
		{"PSS with 1 guest", "MiB", "", func(f *figures) float64 { return f.Guests["1"].PSS }},
		{"PSS with 20 guests", "MiB", "", func(f *figures) float64 { return f.Guests["20"].PSS }},
		{"PSS with " + with + " guests", "MiB", "≤ 10.8", func(f *figures) float64 { return f.Guests[with].PSS }},
		{"PSS per guest", "KiB", "≤ 40", func(f *figures) float64 { return 1024 * per(f.Guests[with].PSS, f.Idle.PSS) }},
		{"threads with " + with, "", "none per guest", func(f *figures) float64 { return float64(f.Guests[with].Threads) }},
		{"descriptors per guest", "", "≤ 4", func(f *figures) float64 { return per(float64(f.Guests[with].Files), float64(f.Idle.Files)) }},
		{"CPU of 10 s idle with " + with, "ms", "0", func(f *figures) float64 { return f.IdleCPU }},
		{"start a guest, wall", "ms", "≤ 45", func(f *figures) float64 { return f.StartWall }},
		{"start, the daemon's CPU", "ms", "≤ 4.3", func(f *figures) float64 { return f.StartCPU }},
		{"start, the machine's CPU less QEMU's, client with it", "ms", "", func(f *figures) float64 { return f.StartNode }},
		{"list " + with, "ms", "≤ 10", func(f *figures) float64 { return f.List }},
		{"statistics of " + with, "ms", "≤ 30", func(f *figures) float64 { return f.Statistics }},
		{"kill a guest", "ms", "≤ 40", func(f *figures) float64 { return f.Kill }},
		{"a QEMU's death told", "ms", "< 100", func(f *figures) float64 { return f.Death }},
		{"kill -9 of the daemon to all listed again", "ms", "≤ 250", func(f *figures) float64 { return f.Again }},
		{"the daemon's CPU for it, first second", "ms", "≤ 80", func(f *figures) float64 { return f.AgainCPU }},
		{"guests listed then", "", with, func(f *figures) float64 { return float64(f.Survived) }},
	}
}

func hostReport(dir string, all []*figures, floor, listed float64, o *options) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := describe(nil)
	if out, err := exec.Command("libvirtd", "--version").Output(); err == nil {
		m.Peer = strings.TrimSpace(string(out))
	}
	data, err := json.MarshalIndent(map[string]any{"machine": m, "qemu_floor_ms": floor, "list_1000_ms": listed, "stacks": all}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "# hostagent beside libvirt\n\nMade by `bench/host.sh`: one run, one node, one stack after the other. %s, %d cores, Linux %s, %s; %s.\n\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Peer)
	fmt.Fprintf(&s, "%d guests of 64 MiB, each with a disk, a console in a file and a virtio-serial channel; QEMU emulates and stays before the first instruction. Times are medians. "+
		"libvirt's stack is libvirtd, virtlogd and, where it runs, systemd-machined. QEMU alone takes %.1f ms to its first QMP answer. hostagent is put together as its own program does, "+
		"with guests as children, on a platform that leaves them paused. The call List of %d guests takes %.1f ms (goal: 5).\n\n![ratios](ratios.svg)\n\n", o.guests, floor, manyGuests, listed)
	var labels []string
	for _, f := range all {
		labels = append(labels, f.Label)
	}
	bars := table(&s, labels, all, hostRows(o))
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(s.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ratios.svg"), drawBars("libvirt over hostagent: above 1 means that hostagent takes less", bars), 0o644)
}
