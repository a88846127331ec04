package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/seimage"
)

// Files that tell of Secure Execution.
const (
	uvDir    = "sys/firmware/uv"
	hostFile = uvDir + "/prot_virt_host"
	hpage    = "sys/module/kvm/parameters/hpage"
)

// machine: Secure Execution is a feature of IBM Z and LinuxONE, and facility 158
// says that this one has it (STFLE, which Linux shows in /proc/cpuinfo). On
// another machine there is nothing more to ask.
func (r *report) machine() bool {
	if r.m.Arch != "s390x" {
		r.fail("machine", "this machine is "+r.m.Arch+": Secure Execution is a feature of IBM Z and LinuxONE (s390x)", "run hostagent on an IBM z15, LinuxONE III or later, or for development with --platform emulated, which protects nothing")
		return false
	}
	r.pass("machine", "s390x")
	text, err := r.read("proc/cpuinfo")
	facilities := field(text, "facilities")
	switch {
	case err != nil:
		r.fail("facility-158", err.Error(), "mount /proc")
	case slices.Contains(strings.Fields(facilities), "158"):
		r.pass("facility-158", "the machine has the ultravisor call facility")
	default:
		r.fail("facility-158", "the machine does not offer the ultravisor call facility (158)", "use an IBM z15, LinuxONE III or later with feature code 115; in an LPAR, not in a z/VM guest")
	}
	return true
}

// ultravisor: what the kernel made of it counts. The kernel parameter alone
// proves nothing: with it set the ultravisor can have failed to start.
func (r *report) ultravisor() {
	if _, err := fs.Stat(r.m.Root, uvDir); err != nil {
		r.fail("ultravisor", "the kernel shows no /"+uvDir, "use Linux 5.7 or later, on a machine with the feature")
		return
	}
	r.pass("ultravisor", "the kernel shows /"+uvDir)
	asked := protVirt(r.line("proc/cmdline"))
	value, err := r.read(hostFile)
	value = strings.TrimSpace(value)
	switch {
	case r.line(uvDir+"/prot_virt_guest") == "1":
		r.fail("prot-virt-host", "this machine is a secure guest itself", "run hostagent in the LPAR, not in a guest")
	case err != nil:
		r.fail("prot-virt-host", err.Error(), "load the kernel module kvm; the kernel must be built with it")
	case value == "1":
		r.pass("prot-virt-host", "the kernel runs as a host of secure guests")
	case value == "0" && asked:
		r.fail("prot-virt-host", "/"+hostFile+" is 0 although the kernel was given prot_virt=1: it could not set up the ultravisor", "see `dmesg | grep -i prot_virt`; the LPAR must have memory for the ultravisor, and no kdump kernel can be a host")
	case value == "0":
		r.fail("prot-virt-host", "/"+hostFile+" is 0: the kernel was not given prot_virt=1", "add prot_virt=1 to the kernel command line (Debian: /etc/zipl.conf and zipl; elsewhere: grubby --update-kernel=ALL --args=prot_virt=1 and zipl), then boot again")
	default:
		r.fail("prot-virt-host", fmt.Sprintf("/%s holds %.20q, neither 0 nor 1", hostFile, value), "report a bug with the kernel's version")
	}
}

// protVirt tells whether a kernel command line turns prot_virt on. The kernel
// takes the last of several.
func protVirt(cmdline string) (on bool) {
	for _, word := range strings.Fields(cmdline) {
		if value, ok := strings.CutPrefix(word, "prot_virt="); ok { // kstrtobool's words
			on = value != "" && strings.ContainsRune("yYtT1", rune(value[0])) || len(value) > 1 && strings.EqualFold(value[:2], "on")
		}
	}
	return on
}

// limits: what the ultravisor takes, and whether it takes what secexec seals.
func (r *report) limits() {
	l, err := r.se().Limits()
	if err != nil {
		r.warn("ultravisor-limits", err.Error(), "report a bug with the kernel's version; limits are not checked before launch")
		return
	}
	if l == (platform.Limits{}) {
		r.warn("ultravisor-limits", "this kernel does not tell the ultravisor's limits", "use Linux 6.0 or later, so that what firmware would refuse is refused before launch")
		return
	}
	r.pass("ultravisor-limits", fmt.Sprintf("at most %d secure guests, of %d CPUs and %d GiB each", l.MaxGuests, l.MaxCPUs, l.MaxAddress>>30))
	version, flags := l.Has(seimage.HeaderVersion, uint64(seimage.DefaultFlags))
	switch {
	case !version:
		r.fail("image-format", fmt.Sprintf("the ultravisor takes no SE header of version 0x%x (supp_se_hdr_ver is %x)", seimage.HeaderVersion, l.HeaderVersions), "update the machine's firmware")
	case !flags:
		r.warn("image-format", fmt.Sprintf("the ultravisor lacks control flags that images have by default (supp_se_hdr_pcf is %x)", l.HeaderFlags), "ask owners for images without them (secexec build and image create have the options --enable-… and --disable-…)")
	default:
		r.pass("image-format", fmt.Sprintf("the ultravisor takes SE headers of version 0x%x with the flags %s", seimage.HeaderVersion, seimage.Flags(l.HeaderFlags)&seimage.KnownFlags))
	}
	if !l.Dump {
		r.warn("protected-dump", "the ultravisor has no protected dump", "secexec dump is refused here; a z16 or later and Linux 6.0 or later have it")
		return
	}
	r.pass("protected-dump", "guests whose images allow it can be dumped, encrypted")
}

// hostKeys: whose key slots open here.
func (r *report) hostKeys() {
	hashes, err := r.se().HostKeyHashes()
	switch {
	case errors.Is(err, platform.ErrHashesUnknown):
		r.warn("host-keys", "this kernel does not tell the machine's host key hashes", "use Linux 6.10 or later; until then only firmware knows, when a guest starts, whether its image has a key slot for this machine")
	case err != nil:
		r.warn("host-keys", err.Error(), "report a bug with the kernel's version")
	default:
		var names []string
		for _, h := range hashes {
			names = append(names, hex.EncodeToString(h[:8])+"…")
		}
		r.pass("host-keys", "images with a key slot for "+strings.Join(names, " or ")+" can start here")
	}
}

// kvm: the device, and a parameter that lets KVM back guests with huge pages,
// in which no secure guest can lie.
func (r *report) kvm() {
	err := r.m.Open("/dev/kvm")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.fail("kvm-device", "there is no /dev/kvm", "load the kernel module: modprobe kvm")
	case errors.Is(err, fs.ErrPermission):
		r.fail("kvm-device", "/dev/kvm can't be opened: "+cause(err), "run this as root, or as a member of the group kvm")
	case err != nil:
		r.fail("kvm-device", "/dev/kvm can't be opened: "+cause(err), "see the kernel's log")
	default:
		r.pass("kvm-device", "/dev/kvm opens")
	}
	switch r.line(hpage) {
	case "1", "Y":
		r.warn("kvm-hpage", "KVM may back guests with huge pages (hpage=1): a guest that is can't turn secure. hostagent's guests never are", "leave hpage=0 on nodes for sealed guests: options kvm hpage=0 in /etc/modprobe.d")
	case "":
		r.warn("kvm-hpage", "/"+hpage+" can't be read", "load the kernel module: modprobe kvm")
	default:
		r.pass("kvm-hpage", "KVM backs guests with 4 KiB pages")
	}
}

// emulated: what there is instead of all of the above.
func (r *report) emulated(ctx context.Context) {
	r.warn("platform", platform.EmulatedWarning, "on a machine with Secure Execution use platform: se")
	p := platform.Emulated{HostDir: r.o.EmulatedHost, Force: r.o.Force, Root: r.m.Root}
	if err := p.Check(ctx); err != nil {
		r.fail("emulated-host", err.Error(), "make an emulated host with secexec emulate init, and name it by --emulated-host")
		return
	}
	r.pass("emulated-host", "images with a key slot for "+r.o.EmulatedHost+" can start here")
}

func (r *report) se() platform.SE { return platform.SE{Root: r.m.Root} }

// maxFile bounds what is read of a file; /proc/cpuinfo of 200 CPUs has 40 KiB.
const maxFile = 1 << 20

func (r *report) read(name string) (string, error) {
	f, err := r.m.Root.Open(name)
	if err != nil {
		return "", fmt.Errorf("read /%s: %s", name, cause(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return "", fmt.Errorf("read /%s: %s", name, cause(err))
	}
	return strings.ToValidUTF8(string(text), "?"), nil
}

// line is a file's text, empty if it can't be read.
func (r *report) line(name string) string {
	text, _ := r.read(name)
	return strings.TrimSpace(text)
}

// field finds "name : value" as /proc has it.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// cause is an error without the path, which the sentence around it has.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
