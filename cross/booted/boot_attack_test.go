package booted

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/owner"
)

// words are some that make other initramfs or inits open a shell, wait for
// somebody, or start other programs.
const words = "single s 1 rescue emergency break break=premount rd.break rd.shell rd.debug debug=vc shell root=/dev/vdb rootdelay=1000 " +
	"systemd.debug_shell=1 systemd.unit=rescue.target systemd.run=/evil systemd.setenv=LD_PRELOAD=/evil.so ip=dhcp nfsroot=10.0.2.2:/ " +
	"LD_PRELOAD=/evil.so GODEBUG=gctrace=1 SHELL=/evil -- /evil --evil"

var wordy = sync.OnceValues(func() (string, error) {
	p, err := plan("wordy", filepath.Join(lab.dir, "victim-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	p.Cmdline = owner.DefaultCmdline(3) + " " + words
	_, err = owner.Build(context.Background(), p)
	return p.Bundle, err
})

// misfit is sealed with a dm-crypt that the kernel does not take: no
// parser of the owner's looks at its first section.
var misfit = sync.OnceValues(func() (string, error) {
	p, err := plan("misfit", filepath.Join(lab.dir, "victim-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	modules := filepath.Join(lab.dir, "misfit-modules")
	if out, err := exec.Command("cp", "-r", filepath.Join(lab.cache, "kernel/modules"), modules).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	found, err := filepath.Glob(modules + "/lib/modules/*/kernel/drivers/md/dm-crypt.ko.xz")
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("dm-crypt is %v: %w", found, err)
	}
	raw, err := exec.Command("xz", "-dc", found[0]).Output()
	if err != nil {
		return "", err
	}
	raw[binary.BigEndian.Uint64(raw[0x28:])+4]++ // the first section's type, which is none
	plain := strings.TrimSuffix(found[0], ".xz")
	if err := os.WriteFile(plain, raw, 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("xz", "--check=crc32", "-f", plain).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	p.Kernel = kernel.Source{Kernel: p.Kernel.Kernel, Modules: []string{modules}}
	_, err = owner.Build(context.Background(), p)
	return p.Bundle, err
})

// foreign is sealed with an init that the kernel can't run, which shows at the
// hand-over alone: guestagent has the port then.
var foreign = sync.OnceValues(func() (string, error) {
	root := filepath.Join(lab.dir, "foreign-root")
	if err := makeRoot(root, nil); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "sbin/init"), []byte("no program of any machine\n"), 0o755); err != nil {
		return "", err
	}
	return build("foreign", root, "host-a", 256)
})

// of makes a bundle function of what builds one once.
func of(build func() (string, error)) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		victimBundle(t)
		b, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// clean checks that the root's init got what guestinit gives it and no word
// more.
func clean(t *testing.T, v *victim) {
	t.Helper()
	console := v.console(v.name)
	for _, want := range []string{
		`testinit: pid 1 argv ["/sbin/init"]`,
		`testinit: env ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "TERM=linux" "HOME=/"]`,
	} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %s:\n%s", want, console)
		}
	}
}

// more adds arguments to QEMU's.
func more(args ...string) func(*testing.T, *victim) string {
	return func(*testing.T, *victim) string { return "$a " + strings.Join(args, "\n$a ") }
}

// unmoved checks that the kernel obeyed no key, and that the guest still
// answers: a challenge goes through kernel and guestagent.
func unmoved(t *testing.T, v *victim) {
	t.Helper()
	if out, err := v.secexec("verify", v.name, "--identity", victimBundle(t)+"-secrets/"+owner.IdentityPublic); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if c := v.console(v.name); strings.Contains(c, "sysrq:") {
		t.Errorf("the kernel obeys:\n%s", c)
	}
}

// inYear checks that the guest believes its host's clock, and that nothing of
// what protects it and its owner asks what time it is: the report, and TLS with its
// certificates.
func inYear(year int) func(t *testing.T, v *victim) {
	return func(t *testing.T, v *victim) {
		clean(t, v)
		if c, want := v.console(v.name), fmt.Sprintf("testinit: the year is %d", year); !strings.Contains(c, want) {
			t.Errorf("console has no %q:\n%s", want, c)
		}
		unmoved(t, v)
		if out, err := v.secexec("connect", v.name, "--secrets", victimBundle(t)+"-secrets"); err != nil {
			t.Errorf("connect: %v\n%s", err, out)
		}
	}
}

// typing gives the guest's console an input.
func typing(v *victim) string {
	return `s|^file,id=console,path=(.*),append=on$|socket,id=console,path=` + v.file("console") + `,server=on,wait=off,logfile=\1,logappend=on|`
}

func (v *victim) types(t *testing.T, text string) {
	t.Helper()
	c, err := net.Dial("unix", v.file("console"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Error(err)
	}
}

// bootAttacks are what a host can do to a boot beside changing disk and serial
// port.
var bootAttacks = []attack{
	{
		name: "the owner's own command line has `single`, `break`, `systemd.*` and other debug words", want: "runs", quick: true,
		bundle: of(wordy), after: func(t *testing.T, v *victim) {
			clean(t, v)
			if c := v.console(v.name); !strings.Contains(c, "systemd.debug_shell=1") {
				t.Errorf("the words are not on the command line:\n%s", c)
			}
		},
	},
	{
		name: "adds a command line: `-append rdinit=/evil init=/evil single`", want: "runs", quick: true,
		sed: more("-append", "rdinit=/evil init=/evil single"), after: func(t *testing.T, v *victim) {
			clean(t, v)
			if c := v.console(v.name); strings.Contains(c, "evil") {
				t.Errorf("the host's words reach the guest:\n%s", c)
			}
		},
	},
	{
		name: "adds an initrd", want: "runs",
		sed: func(t *testing.T, v *victim) string {
			if err := os.WriteFile(v.file("initrd"), []byte(forgedCanary+strings.Repeat("x", 1<<20)), 0o600); err != nil {
				t.Fatal(err)
			}
			return more("-initrd", v.file("initrd"))(t, v)
		},
		after: clean,
	},
	{
		name: "says at boot that it is 1970", want: "runs",
		sed: more("-rtc", "base=1970-01-01T00:00:00"), after: inYear(1970),
	},
	{
		name: "says at boot that it is 2042, the last year of the TOD clock's first epoch", want: "runs",
		sed: more("-rtc", "base=2042-06-01T00:00:00"), after: inYear(2042),
	},
	{name: "gives 2 CPUs", want: "runs", cpus: 2, after: clean},
	{name: "gives 16 CPUs", want: "runs", cpus: 16, after: clean},
	{name: "gives 64 MiB of memory", want: "G102", memory: 64},
	{name: "gives 96 MiB of memory", want: "runs", memory: 96, after: clean},
	{name: "nothing: a module of the sealed image does not fit the kernel", want: "G103", quick: true, bundle: of(misfit)},
	{name: "nothing: the root's init is no program of this machine", want: "G111", quick: true, bundle: of(foreign)},
	{
		name: "takes the disk away before the guest looks", want: "G104", silence: 5 * time.Second,
		sed: func(*testing.T, *victim) string {
			return `s|"driver":"virtio-blk-ccw"|"driver":"virtio-balloon-ccw"|;s|,"(drive\|serial\|write-cache\|num-queues\|bootindex\|iothread\|share-rw\|discard\|logical_block_size\|physical_block_size)":("[^"]*"\|[0-9]+\|true\|false)||g`
		},
	},
	{
		name: "unplugs the disk once the kernel runs", want: "G104 G107 G108 G109 G111 H210 H211 H212", silence: 5 * time.Second,
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.unplug(t, "disk0") },
	},
	{
		name: "unplugs the disk once it is unlocked", want: "G108 G109 G110 G111 H211 H212 runs",
		during: func(t *testing.T, v *victim) { v.passes(t, "unlocked"); v.unplug(t, "disk0") },
	},
	{
		name: "unplugs the readiness port once the kernel runs", want: "H210", hopeless: true,
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.unplug(t, "readiness0") },
	},
	{
		name: "unplugs the serial bus once the kernel runs", want: "H210", hopeless: true,
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.unplug(t, "serial0") },
	},
	{
		name: "asks to power down once the kernel runs", want: "H211 runs",
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.command(t, "system_powerdown", nil) },
	},
	{
		name: "asks to power down (ctrl-alt-del) once the root's own init runs, which does not want to", want: "runs",
		after: func(t *testing.T, v *victim) {
			v.command(t, "system_powerdown", nil)
			v.says(v.name, "testinit: ctrl-alt-del is up to me: no")
			unmoved(t, v)
		},
	},
	{
		name: "resets the guest once the kernel runs", want: "H218",
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.command(t, "system_reset", nil) },
	},
	{
		name: "sends an NMI once the kernel runs", want: "H211 H212 runs",
		during: func(t *testing.T, v *victim) { v.passes(t, "kernel"); v.command(t, "inject-nmi", nil) },
	},
	{
		name: "stops the guest for a while once the kernel runs", want: "runs",
		during: func(t *testing.T, v *victim) {
			v.passes(t, "kernel")
			v.command(t, "stop", nil)
			time.Sleep(3 * time.Second)
			v.command(t, "cont", nil)
		},
		after: clean,
	},
	{
		name: "types SysRq and `c` (crash) on the console of a ready guest", want: "runs",
		sed: func(_ *testing.T, v *victim) string { return typing(v) },
		after: func(t *testing.T, v *victim) {
			v.types(t, "\x0fc") // crash; the kernel's SCLP console knows SysRq by Ctrl-O
			clean(t, v)
			unmoved(t, v)
		},
	},
	{
		name: "attaches devices that nobody planned: disk, network, random numbers, balloon", want: "runs",
		sed: func(t *testing.T, v *victim) string {
			if err := os.WriteFile(v.file("disk"), make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			return more("-blockdev", "file,node-name=extra,filename="+v.file("disk"), "-device", "virtio-blk-ccw,drive=extra,serial=extra,devno=fe.0.0f01",
				"-device", "virtio-rng-ccw,rng=r,devno=fe.0.0f02", "-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-balloon-ccw,devno=fe.0.0f03",
				"-netdev", "user,id=evil", "-device", "virtio-net-ccw,netdev=evil,devno=fe.0.0f04")(t, v)
		},
		after: clean,
	},
	{
		name: "plugs CPUs once the kernel runs", want: "runs", // -smp's maximum is what was given
		sed: func(*testing.T, *victim) string { return `/^-smp$/{n;s|$|,maxcpus=4|}` },
		during: func(t *testing.T, v *victim) {
			v.passes(t, "kernel")
			for id := 1; id < 4; id++ {
				v.command(t, "device_add", map[string]any{"driver": "max-s390x-cpu", "id": fmt.Sprint("cpu", id), "core-id": id})
			}
		},
		after: clean,
	},
}

// A hostile host meddles with the boot.
func TestBootAttacks(t *testing.T) {
	t.Parallel()
	attacks(t, bootAttacks)
}

// unplug takes a device away, if QEMU and the guest are still there.
func (v *victim) unplug(t *testing.T, id string) {
	v.command(t, "device_del", map[string]any{"id": id})
}
