package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/libvirt"
	"github.com/secexec/secexec/hostagent/qemu"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// formatFlags are --format, and --json for short.
type formatFlags struct {
	format string
	json   bool
}

func (f *formatFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "format", "text", "`text`, json, or libvirt, which is the domain's XML")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, as --format json")
	cmd.MarkFlagsMutuallyExclusive("format", "json")
}

// print prints in the format asked for.
func (f *formatFlags) print(cmd *cobra.Command, text func() error, asJSON any, domain func() (*libvirt.Guest, error)) error {
	if f.json {
		f.format = "json"
	}
	switch f.format {
	case "text":
		return text()
	case "json":
		return printJSON(cmd, asJSON)
	case "libvirt":
		g, err := domain()
		if err != nil {
			return err
		}
		xml, err := libvirt.Domain(g)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(xml)
		return err
	}
	return usageError{fmt.Errorf("--format %.40q: it is text, json or libvirt", f.format)}
}

// guestDomain is a guest as libvirt would run it on its node.
func guestDomain(g *hostagentv1.Guest) *libvirt.Guest {
	out := &libvirt.Guest{
		Name: g.Name, UUID: g.Uuid, MemoryMiB: int(g.MemoryMib), CPUs: int(g.Cpus), Loadparm: g.Loadparm,
		ConsoleLog: filepath.Join(g.Folder, "console.log"),
	}
	if g.Image != "" {
		out.Kernel = filepath.Join(g.Folder, g.Image)
	}
	for _, d := range g.Disks {
		path := d.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(g.Folder, path)
		}
		out.Disks = append(out.Disks, qemu.Disk{
			Path: path, Device: isDevice(path), Serial: d.Serial, ReadOnly: d.ReadOnly,
			Format: qemu.Format(d.Format), Bus: qemu.Bus(d.Bus), Cache: qemu.Cache(d.Cache), Discard: qemu.Discard(d.Discard),
		})
	}
	for _, n := range g.Networks {
		net := qemu.Net{MAC: n.Mac, Tap: n.Tap, User: n.Kind == "user", Queues: int(n.Queues)}
		for _, p := range n.Publish {
			net.Publish = append(net.Publish, qemu.Publish{Node: int(p.NodePort), Guest: int(p.GuestPort)})
		}
		out.Nets = append(out.Nets, net)
	}
	return out
}

// isDevice guesses whether a path of another machine is a block device's.
func isDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

// bundleDomain is a bundle as libvirt would run it from where it lies.
func bundleDomain(dir string, m *bundle.Manifest) (*libvirt.Guest, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find bundle: %w", err)
	}
	out := &libvirt.Guest{Name: m.Name, MemoryMiB: m.MemoryMiB}
	if m.Boot != bundle.BootDisk {
		out.Kernel = filepath.Join(dir, m.Image.File)
	}
	for _, d := range m.Disks {
		out.Disks = append(out.Disks, qemu.Disk{Path: filepath.Join(dir, d.File), Serial: d.Serial, ReadOnly: d.ReadOnly})
	}
	return out, nil
}
