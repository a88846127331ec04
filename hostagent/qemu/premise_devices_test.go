package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// qemuImg runs qemu-img, or skips without one.
func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skipf("%v: Debian package qemu-utils", err)
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
}

// image makes a qcow2 image of 4 MiB.
func image(t *testing.T, path string, more ...string) {
	t.Helper()
	qemuImg(t, append(append([]string{"create", "-q", "-f", "qcow2"}, more...), path, "4M")...)
}

// nodes are QEMU's block nodes by name.
type node struct {
	Driver  string `json:"drv"`
	RO      bool   `json:"ro"`
	Backing string `json:"backing_file"`
	Cache   struct {
		Direct  bool `json:"direct"`
		NoFlush bool `json:"no-flush"`
	} `json:"cache"`
	Zeroes string `json:"detect_zeroes"`
	Name   string `json:"node-name"`
	Image  struct {
		Size int64 `json:"virtual-size"`
	} `json:"image"`
}

func nodes(t *testing.T, m *Monitor) map[string]node {
	t.Helper()
	var list []node
	if err := m.Execute(t.Context(), "query-named-block-nodes", map[string]bool{"flat": true}, &list); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]node)
	for _, n := range list {
		out[n.Name] = n
	}
	return out
}

// property is a device's property, of any kind, as JSON.
func property(t *testing.T, m *Monitor, id, name string) string {
	t.Helper()
	var v json.RawMessage
	if err := m.Property(t.Context(), "/machine/peripheral/"+id, name, &v); err != nil {
		t.Errorf("%s of %s: %v", name, id, err)
	}
	return string(v)
}

// Each kind of disk and network that can be asked for, as QEMU makes it.
func TestPremiseDevices(t *testing.T) {
	t.Parallel()
	binary, release := withQEMU(t)
	c := paused(t, binary)
	c.CPUs, c.Sandbox = 4, release.Sandbox
	thin, thick := filepath.Join(c.RuntimeDir, "thin,1"), filepath.Join(c.RuntimeDir, "thick")
	image(t, thin)
	image(t, thick, "-o", "preallocation=metadata")
	c.Disks = append(c.Disks,
		Disk{Path: thin, Serial: "thin", Format: Qcow2, Bus: VirtioSCSI, Discard: Unmap},
		Disk{Path: thick, Serial: "thick", Format: Qcow2, ReadOnly: true})
	c.Disks[0].Discard = Unmap
	virtio := []string{"serial0", "scsi0", "disk0", "disk2", "disk4"}
	help, _ := exec.Command(binary, "-netdev", "help").CombinedOutput()
	user := strings.Contains(string(help), "\nuser\n") // wants libslirp, which not every build has
	if user {
		c.Nets = []Net{{MAC: "52:54:00:12:34:56", User: true}, {MAC: "52:54:00:12:34:57", User: true}}
		virtio = append(virtio, "net0", "net1")
	}
	_, words := run(t, c)
	m := dial(t, c, words)

	for _, id := range virtio {
		if got := property(t, m, id, "iommu_platform"); got != "true" {
			t.Errorf("iommu_platform of %s is %s", id, got)
		}
	}
	got := nodes(t, m)
	for name, want := range map[string]node{
		"disk0-file":  {Driver: "file"},
		"disk1-file":  {Driver: "file", RO: true},
		"disk3-file":  {Driver: "file"},
		"disk3-qcow2": {Driver: "qcow2"},
		"disk4-qcow2": {Driver: "qcow2", RO: true},
	} {
		n := got[name]
		if n.Driver != want.Driver || n.RO != want.RO || n.Backing != "" || n.Cache.Direct || n.Cache.NoFlush || n.Zeroes != "off" {
			t.Errorf("node %s is %+v", name, n)
		}
	}
	if size := got["disk3-qcow2"].Image.Size; size != 4<<20 {
		t.Errorf("qcow2 disk of %d bytes", size)
	}
	if len(got) != 7 {
		t.Errorf("nodes %+v, want those that were asked for", got)
	}
	for _, p := range [][3]string{
		{"disk0", "discard", "true"}, {"disk2", "discard", "false"}, {"disk0", "num-queues", "4"}, {"scsi0", "num_queues", "4"},
		{"disk1", "discard_granularity", "0"}, {"disk3", "discard_granularity", "4096"}, {"disk4", "serial", `"thick"`},
	} {
		if got := property(t, m, p[0], p[1]); got != p[2] {
			t.Errorf("%s of %s is %s, want %s", p[1], p[0], got, p[2])
		}
	}
	var threads []struct {
		ID string `json:"id"`
	}
	if err := m.Execute(t.Context(), "query-iothreads", nil, &threads); err != nil || len(threads) != 2 {
		t.Errorf("I/O threads %+v, %v; want 2", threads, err)
	}
	if !user {
		t.Skip("this QEMU has no user-mode network: the rest was tested")
	}
	if got := property(t, m, "net1", "mac"); got != `"52:54:00:12:34:57"` {
		t.Errorf("MAC address %s", got)
	}
}

// Cache mode direct is O_DIRECT with the kernel's own queue, where the file
// system has it.
func TestPremiseDirectDisk(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	c.Disks[2].Cache = Direct
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
	words := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = words, words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, ended := context.WithTimeout(t.Context(), 30*time.Second)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		cmd.Wait()
		ended()
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-waited })
	m, err := Dial(ctx, c.QMPSocket)
	if err != nil {
		cmd.Process.Kill()
		<-waited // words are whole
		if strings.Contains(words.String(), "O_DIRECT") || strings.Contains(words.String(), "aio=native") {
			t.Skipf("no O_DIRECT here: %s", words)
		}
		t.Fatalf("%v: %s", err, words)
	}
	defer m.Close()
	if n := nodes(t, m)["disk2-file"]; !n.Cache.Direct || n.Cache.NoFlush {
		t.Errorf("node %+v", n)
	}
}

// Why CheckImage reads qcow2 headers. "backing" as null keeps QEMU from a
// backing file whatever the header says, and the guest would miss its data; an
// external data file is opened by the name in the header, and nothing on the
// command line keeps QEMU from it.
func TestPremiseQcow2OpensFurtherFiles(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	data, based, other := filepath.Join(c.RuntimeDir, "data"), filepath.Join(c.RuntimeDir, "based"), filepath.Join(c.RuntimeDir, "other")
	image(t, based, "-b", c.Disks[0].Path, "-F", "raw")
	image(t, other, "-o", "data_file="+data)
	c.Disks = []Disk{{Path: based, Serial: "based", Format: Qcow2}, {Path: other, Serial: "other", Format: Qcow2}}
	for _, d := range c.Disks {
		f, err := os.Open(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.CheckImage(f); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", d.Serial, err)
		}
		f.Close()
	}
	if files, err := Open(t.Context(), c); !errors.Is(err, ErrImage) {
		Close(files)
		t.Errorf("Open: %v", err)
	}
	os.Remove(c.QMPSocket)
	os.Remove(c.ReadinessSocket)
	os.Remove(c.GDBSocket)
	cmd, words := byPath(t, c)
	dial(t, c, words)
	var open []string
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
	if err != nil || len(fds) == 0 {
		t.Skipf("no descriptors of another process to be seen here: %v", err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			open = append(open, to)
		}
	}
	all := strings.Join(open, "\n") + "\n"
	if strings.Contains(all, "/disk,root\n") {
		t.Error("QEMU opened the backing file")
	}
	if !strings.Contains(all, data+"\n") {
		t.Error("QEMU did not open the data file: the check is no longer needed")
	}
}

// A block device's driver takes no regular file, and the other way round: a
// path that changed its kind meanwhile does not start.
func TestPremiseDeviceDriverWantsDevice(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	c := paused(t, binary)
	c.Disks[0].Device = true
	cmd, words := byPath(t, c)
	if err := cmd.Wait(); err == nil || !strings.Contains(words.String(), "host_device") {
		t.Errorf("QEMU: %v: %s", err, words)
	}
}

// A block device, opened here and found by QEMU through a descriptor set; read
// past the page cache and not.
func TestPremiseBlockDevice(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skipf("%v: Debian package mount", err)
	}
	c := paused(t, binary)
	for i := range c.Disks[:2] {
		out, err := exec.Command(losetup, "--find", "--show", c.Disks[i].Path).CombinedOutput()
		if err != nil {
			t.Skipf("no right to make block devices here: %v: %s", err, out)
		}
		device := strings.TrimSpace(string(out))
		t.Cleanup(func() { exec.Command(losetup, "--detach", device).Run() })
		c.Disks[i].Path = device
	}
	c.Disks[0].Cache, c.Disks[0].Discard = Direct, Unmap
	_, words := run(t, c)
	m := dial(t, c, words)
	got := nodes(t, m)
	if n := got["disk0-file"]; n.Driver != "host_device" || n.RO || !n.Cache.Direct || n.Image.Size != 1<<20 {
		t.Errorf("node %+v", n)
	}
	if n := got["disk1-file"]; n.Driver != "host_device" || !n.RO || n.Cache.Direct {
		t.Errorf("node %+v", n)
	}
	if n := got["disk2-file"]; n.Driver != "file" {
		t.Errorf("node %+v", n)
	}
}

// byPath starts a QEMU that opens all files itself, unchecked.
func byPath(t *testing.T, c *Config) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	return cmd, start(t, cmd)
}

// A tap interface's queues, opened here and inherited by a QEMU that may open
// nothing itself.
func TestPremiseTap(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skipf("%v: Debian package iproute2", err)
	}
	one, four := fmt.Sprintf("sx1-%d", os.Getpid()), fmt.Sprintf("sx4-%d", os.Getpid())
	for name, more := range map[string][]string{one: nil, four: {"multi_queue"}} {
		if out, err := exec.Command(ip, append([]string{"tuntap", "add", "dev", name, "mode", "tap"}, more...)...).CombinedOutput(); err != nil {
			t.Skipf("no right to make tap interfaces here: %v: %s", err, out)
		}
		t.Cleanup(func() { exec.Command(ip, "link", "del", name).Run() })
	}
	if _, err := OpenTap(one, 2); !errors.Is(err, ErrTap) || !strings.Contains(err.Error(), "multi_queue") {
		t.Errorf("two queues of an interface with one: %v", err)
	}
	c := paused(t, binary)
	c.CPUs = 4
	c.Nets = []Net{
		{MAC: "52:54:00:12:34:56", Tap: one},
		{MAC: "52:54:00:12:34:57", Tap: four, Queues: 4},
	}
	_, words := run(t, c)
	if _, err := OpenTap(one, 1); !errors.Is(err, ErrTap) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an interface in use: %v", err)
	}
	m := dial(t, c, words)
	for _, id := range []string{"net0", "net1"} {
		if got := property(t, m, id, "iommu_platform"); got != "true" {
			t.Errorf("iommu_platform of %s is %s", id, got)
		}
	}
	if got := property(t, m, "net1", "mq"); got != "true" {
		t.Errorf("several queues of net1: %s", got)
	}
}
