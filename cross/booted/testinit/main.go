// Command testinit is the init of the small roots that booted tests use. It
// says on the console what a workload can see of its guest, then waits to be
// asked to power off.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device-mapper's ABI, linux/dm-ioctl.h.
const (
	dmTableStatus     = 0xc138fd0c
	dmStatusTableFlag = 1 << 4
	dmStructSize      = 312
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == asNobody {
		nobody()
		return
	}
	if os.Getpid() != 1 {
		os.Exit(tool(os.Args[1:]))
	}
	say("pid %d argv %q", os.Getpid(), os.Args)
	say("env %q", os.Environ())
	for _, file := range []string{"/proc/cmdline", "/proc/mounts", "/srv/content", "/proc/keys", "/proc/sys/kernel/core_pattern"} {
		dump(file)
	}
	if table, err := dmTable("secexec-root"); err != nil {
		say("dm table: %v", err)
	} else {
		say("dm table: %s", table)
	}
	if table, err := dmTable("secexec-root-tags"); err == nil {
		say("dm table of tags: %s", table)
	}
	entries, err := os.ReadDir("/")
	say("root holds %v %v", entries, err)
	_, err = os.Stat("/sealed.record")
	say("sealed record: %v", err)
	writeProbe()
	fresh()
	devices()
	processes()
	hardening()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.Signal(38), unix.SIGTERM)
	notify()
	cad := make(chan os.Signal, 1)
	signal.Notify(cad, unix.SIGINT)
	go func() {
		for range cad {
			say("ctrl-alt-del is up to me: no")
		}
	}()
	say("the year is %d", time.Now().UTC().Year())
	say("waits")
	say("got %v, powers off", <-stop)
	killAgent()
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	select {}
}

func say(format string, args ...any) { fmt.Printf("testinit: "+format+"\n", args...) }

func dump(file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		say("%s: %v", file, err)
	}
	for line := range strings.Lines(string(data)) {
		say("%s: %s", file, strings.TrimSpace(line))
	}
}

// writeProbe shows whether the root can be written, and that what an earlier
// boot wrote is still there.
func writeProbe() {
	before, err := os.ReadFile("/boots")
	say("boots before: %d %v", len(before), err)
	say("boots written: %v", os.WriteFile("/boots", append(before, '.'), 0o600))
}

// devices lists disks and network interfaces as the kernel shows them, and tries
// to read and write each disk that is not a sealed one.
func devices() {
	if _, err := os.Stat("/sys/block"); err != nil {
		_ = os.MkdirAll("/sys", 0o755)
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			say("mount /sys: %v", err)
		}
	}
	line := func(path string) string {
		text, _ := os.ReadFile(path)
		return strings.TrimSpace(string(text))
	}
	disks, _ := os.ReadDir("/sys/block")
	for _, d := range disks {
		dir := "/sys/block/" + d.Name()
		serial := line(dir + "/serial")
		if page, err := os.ReadFile(dir + "/device/vpd_pg80"); err == nil && len(page) > 4 {
			serial = string(page[4:])
		}
		if serial == "" {
			continue
		}
		queues, _ := os.ReadDir(dir + "/mq")
		say("disk %s serial %s sectors %s ro %s discard %s queues %d: %s", d.Name(), serial, line(dir+"/size"), line(dir+"/ro"),
			line(dir+"/queue/discard_max_bytes"), len(queues), diskProbe("/dev/"+d.Name(), serial))
	}
	nets, _ := os.ReadDir("/sys/class/net")
	for _, n := range nets {
		say("net %s address %s", n.Name(), line("/sys/class/net/"+n.Name()+"/address"))
	}
}

// diskProbe reads a mark at the start of a disk whose serial number begins with
// "probe" and writes another behind it.
func diskProbe(path, serial string) string {
	if !strings.HasPrefix(serial, "probe") {
		return "let alone"
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		if f, err = os.Open(path); err != nil {
			return err.Error()
		}
	}
	defer f.Close()
	mark := make([]byte, 512)
	if _, err := f.ReadAt(mark, 0); err != nil {
		return err.Error()
	}
	reply := bytes.Repeat([]byte{0}, 512)
	copy(reply, "written by the guest to "+serial)
	_, err = f.WriteAt(reply, 512)
	if err == nil {
		err = f.Sync()
	}
	return fmt.Sprintf("reads %q writes %v", bytes.TrimRight(mark, "\x00"), err)
}

// processes lists what runs, with cgroups: guestagent has one of its own.
func processes() {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue
		}
		cgroup, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		say("process %s %q cgroup %q", e.Name(), bytes.TrimRight(cmdline, "\x00"), bytes.TrimSpace(cgroup))
	}
}

// dmTable returns a mapping's table as `dmsetup table --showkeys` would.
func dmTable(name string) (string, error) {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	buf := make([]byte, 16<<10)
	ne := binary.NativeEndian
	ne.PutUint32(buf[0:], 4)
	ne.PutUint32(buf[12:], uint32(len(buf)))
	ne.PutUint32(buf[16:], dmStructSize)
	ne.PutUint32(buf[28:], dmStatusTableFlag)
	copy(buf[48:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmTableStatus, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return "", errno
	}
	// One dm_target_spec (40 bytes), then the parameters.
	spec := buf[dmStructSize:]
	kind, _, _ := bytes.Cut(spec[24:40], []byte{0})
	params, _, _ := bytes.Cut(spec[40:], []byte{0})
	return fmt.Sprintf("%d %d %s %s", ne.Uint64(spec[0:]), ne.Uint64(spec[8:]), kind, params), nil
}
