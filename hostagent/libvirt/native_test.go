package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
	"golang.org/x/sys/unix"
)

// What libvirt itself, as it is installed, makes of our domains.

const schema = "/usr/share/libvirt/schemas/domain.rng"

func TestPremiseDomainsAreValid(t *testing.T) {
	t.Parallel()
	xmllint, err := exec.LookPath("xmllint")
	if err != nil {
		t.Skipf("%v: Debian package libxml2-utils", err)
	}
	if _, err := os.Stat(schema); err != nil {
		t.Skipf("%v: Debian package libvirt0 (libvirt-common in later releases)", err)
	}
	check := func(path string) ([]byte, error) {
		return exec.Command(xmllint, "--noout", "--relaxng", schema, path).CombinedOutput()
	}
	for name := range guests() {
		if out, err := check(filepath.Join("testdata", name+".xml")); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	// The schema does refuse.
	text, err := os.ReadFile("testdata/full.xml")
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.xml")
	if err := os.WriteFile(bad, []byte(strings.Replace(string(text), `iommu="on"`, `iommu="perhaps"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(bad); err == nil {
		t.Errorf("the schema takes any word: %s", out)
	}
}

// native asks libvirt's QEMU driver, within virsh and without a daemon, for a
// domain's arguments. Here is no Secure Execution: the domain is translated, and
// what only KVM has is taken out.
func native(t *testing.T, path string) []string {
	t.Helper()
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skipf("%v: Debian package libvirt-clients", err)
	}
	if _, err := exec.LookPath("qemu-system-s390x"); err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	here := string(text)
	for _, r := range [][2]string{{`<domain type="kvm">`, `<domain type="qemu">`}, {`  <cpu mode="host-passthrough"/>` + "\n", ""}, {`  <launchSecurity type="s390-pv"/>` + "\n", ""}} {
		if strings.Count(here, r[0]) != 1 {
			t.Fatalf("%s has no %s", path, r[0])
		}
		here = strings.Replace(here, r[0], r[1], 1)
	}
	dir, err := os.MkdirTemp("", "virt") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(file, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, virsh, "-c", "qemu:///embed?root="+dir, "domxml-to-native", "qemu-argv", file)
	cmd.WaitDelay = time.Second
	if os.Geteuid() == 0 {
		// As root the driver wants a user of the daemon's package, which is not
		// there; as anybody else the right to make tap interfaces, which it tries.
		const nobody = 65534
		if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chown(file, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
		cmd.Env = append(os.Environ(), "HOME="+dir)
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && regexp.MustCompile(`no connection driver|cannot open shared object|embed`).Match(exit.Stderr) {
		t.Skipf("libvirt has no driver for QEMU here (Debian package libvirt-daemon-driver-qemu): %s", exit.Stderr)
	}
	if errors.As(err, &exit) && regexp.MustCompile(`/dev/net/tun|create tap device`).Match(exit.Stderr) {
		t.Skipf("no tap interface can be made here, which libvirt tries: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatalf("virsh: %v: %s", err, exit.Stderr)
	}
	argv, err := words(string(out))
	if err != nil {
		t.Fatal(err)
	}
	return argv
}

// words splits a shell's words, which may be in single quotes.
func words(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	quoted, any := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\'':
			quoted, any = !quoted, true
		case quoted:
			word.WriteByte(c)
		case c == '\\' && i+1 < len(line):
			i++
			if line[i] != '\n' {
				word.WriteByte(line[i])
				any = true
			}
		case c == ' ' || c == '\n':
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("no end of the quotes in %q", line)
	}
	return out, nil
}

// machine is what an argument vector makes, in terms that are neither ours nor
// libvirt's.
type machine struct {
	devices map[string]string // by their place: driver and properties
	images  []string          // driver, file, cache, aio and format of each disk
	plain   map[string]string // options with a plain value
}

// properties that both give; what a guest or a disk's data depends on.
var properties = []string{"iommu_platform", "num-queues", "num_queues", "serial", "device_id", "scsi-id", "lun", "write-cache", "name", "nr", "mac", "iothread"}

// parse reads an argument vector, but for networks: libvirt
// rebuilds them for domxml-to-native, and drops their driver's options.
func parse(t *testing.T, argv []string) machine {
	t.Helper()
	m := machine{devices: make(map[string]string), plain: make(map[string]string)}
	nodes := make(map[string]map[string]any)
	var drives []string
	threads := 0
	for i, arg := range argv {
		if i == 0 {
			continue
		}
		var o map[string]any
		if strings.HasPrefix(arg, "{") {
			if err := json.Unmarshal([]byte(arg), &o); err != nil {
				t.Fatalf("%v in %s", err, arg)
			}
		}
		switch option := argv[i-1]; option {
		case "-kernel", "-m", "-uuid", "-sandbox", "-display", "-overcommit":
			m.plain[option] = arg
		case "-smp":
			m.plain[option], _, _ = strings.Cut(arg, ",")
		case "-object":
			if o["qom-type"] == "iothread" {
				threads++
			}
		case "-blockdev":
			nodes[o["node-name"].(string)] = o
		case "-device":
			if o["driver"] == "virtio-net-ccw" {
				continue
			}
			var list []string
			for _, name := range properties {
				v, ok := o[name]
				if name == "iothread" && ok { // io0 is iothread1
					var n int
					if _, err := fmt.Sscanf(v.(string), "io%d", &n); err != nil {
						fmt.Sscanf(v.(string), "iothread%d", &n)
						n--
					}
					v = n
				}
				if ok {
					list = append(list, fmt.Sprintf("%s=%v", strings.ReplaceAll(name, "_", "-"), v))
				}
			}
			slices.Sort(list)
			place := fmt.Sprint(o["driver"], " ", o["devno"])
			if o["scsi-id"] != nil {
				place = fmt.Sprint(o["driver"], " ", o["scsi-id"])
			}
			m.devices[place] = strings.Join(list, " ")
			if drive, ok := o["drive"].(string); ok {
				drives = append(drives, drive)
			}
		}
	}
	for _, top := range drives {
		format, file := nodes[top], nodes[top]
		kind := "raw"
		if below, ok := format["file"].(string); ok {
			file = nodes[below]
			kind = format["driver"].(string)
		}
		backing, named := format["backing"]
		if kind != "raw" && (!named || backing != nil) {
			t.Errorf("%s may have a backing file", top)
		}
		m.images = append(m.images, fmt.Sprint(file["driver"], " ", file["filename"], " ", kind, " read-only=", format["read-only"],
			" discard=", format["discard"], " cache=", file["cache"], " aio=", file["aio"]))
	}
	slices.Sort(m.images)
	m.plain["threads"] = fmt.Sprint(threads)
	return m
}

// A machine of libvirt's is ours: the same devices in the same places, each with
// iommu_platform, the same images opened the same way.
func TestPremiseLibvirtMakesTheSameMachine(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"full", "scsiboot"} { // virsh looks at QEMU for seconds each time
		g := guests()[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs := parse(t, native(t, filepath.Join("testdata", name+".xml")))
			if _, err := Domain(g); err != nil { // fills in the CPUs
				t.Fatal(err)
			}
			c := &qemu.Config{
				Name: g.Name, UUID: g.UUID, Binary: "qemu-system-s390x", MemoryMiB: g.MemoryMiB, CPUs: g.CPUs,
				Kernel: g.Kernel, BootDisk: g.Kernel == "", Loadparm: g.Loadparm, Disks: g.Disks, Nets: g.Nets,
				ConsolePath: "/console", ReadinessSocket: "/readiness", ChannelSocket: "/channel", QMPSocket: "/qmp", Sandbox: true, Accel: "kvm", CPU: "host", Confidential: true,
			}
			if c.UUID == "" {
				c.UUID = theirs.plain["-uuid"] // libvirt made one
			}
			argv, err := qemu.Args(c)
			if err != nil {
				t.Fatal(err)
			}
			ours := parse(t, argv)
			if len(ours.devices) < 3 || len(ours.images) != len(g.Disks) {
				t.Fatalf("our machine is %+v", ours)
			}
			for _, m := range [][2]any{{theirs.devices, ours.devices}, {theirs.images, ours.images}, {theirs.plain, ours.plain}} {
				if fmt.Sprint(m[0]) != fmt.Sprint(m[1]) {
					t.Errorf("libvirt makes\n%v\nand we\n%v", m[0], m[1])
				}
			}
			for place, list := range theirs.devices {
				if strings.HasPrefix(place, "virtio-") && !strings.Contains(list, "iommu-platform=true") {
					t.Errorf("%s of libvirt's has no iommu_platform: %s", place, list)
				}
			}
		})
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	got, err := words("a 'b c' \\\n--d 'e'\\''f' ''\n")
	if want := []string{"a", "b c", "--d", "e'f", ""}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := words("'a"); err == nil {
		t.Error("open quotes pass")
	}
}
