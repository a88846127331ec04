package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/secexec/secexec/form"
)

// Slice is the slice that all guests' units are in.
const Slice = "secexec.slice"

const (
	unitPrefix = "secexec-guest-"
	unitSuffix = ".service"
)

// Overhead is what a guest's unit may take beyond its guest's memory, in bytes:
// QEMU's own and the kernel's for it. docs/launcher.md has the measurements.
const (
	Overhead           = 192 << 20
	OverheadTranslated = 512 << 20 // with the translated code of TCG
)

// maxTasks bounds a QEMU's threads: 248 CPUs, and 64 workers for each of its few
// event loops.
const maxTasks = 512

// UnitName is the unit of a guest: secexec-guest-NAME.service. A guest's name is
// made of what a unit's name may hold, so nothing is escaped.
func UnitName(name string) (string, error) {
	if !form.Name.MatchString(name) {
		return "", fmt.Errorf("guest name %.80q is not 1 to 63 characters of a-z, 0-9 and '-'", name)
	}
	return unitPrefix + name + unitSuffix, nil
}

// description is a unit's Description; it carries the guest's UUID.
func description(spec *Spec) string {
	return "Sealed guest " + spec.Name + " (" + spec.UUID + ")"
}

// describes tells whether a unit's Description is that of the guest with this UUID.
func describes(text, uuid string) bool {
	return uuid != "" && strings.HasPrefix(text, "Sealed guest ") && strings.HasSuffix(text, " ("+uuid+")")
}

// property is one property of a transient unit, as D-Bus carries it: (sv).
type property struct {
	Name  string
	Value dbus.Variant
}

// execStart is an element of ExecStart: a(sasb).
type execStart struct {
	Path          string
	Args          []string
	IgnoreFailure bool
}

// deviceAllow is an element of DeviceAllow: a(ss).
type deviceAllow struct{ Path, Rights string }

// bindPath is an element of BindPaths: a(ssbt).
type bindPath struct {
	From, To      string
	IgnoreMissing bool
	Flags         uint64
}

// nameList is (bas): an allow-list or a deny-list.
type nameList struct {
	Allow bool
	Names []string
}

// addressRange is an element of IPAddressDeny: a(iayu).
type addressRange struct {
	Family int32
	Prefix []byte
	Bits   uint32
}

const (
	afInet  = 2
	afInet6 = 10
	msRec   = 0x4000 // BindPaths with submounts
	ePerm   = 1
)

// anyAddress is IPAddressDeny=any.
var anyAddress = []addressRange{{afInet, make([]byte, 4), 0}, {afInet6, make([]byte, 16), 0}}

// confinement is what properties needs to know of the machine.
type confinement struct {
	program string   // hostagent's own, by path
	groups  []string // groups, by number, that the device files belong to
}

// properties makes the unit of a process. stdin is the handover's other end.
func properties(spec *Spec, c confinement, stdin dbus.UnixFD) ([]property, error) {
	if spec.UUID == "" {
		return nil, errors.New("no UUID to find the unit by")
	}
	var out []property
	set := func(name string, value any) { out = append(out, property{name, dbus.MakeVariant(value)}) }

	set("Description", description(spec))
	set("Slice", Slice)
	set("Type", "exec")
	set("ExecStart", []execStart{{c.program, []string{c.program, "exec", "-uuid", spec.UUID}, false}})
	set("StandardInputFileDescriptor", stdin)
	set("StandardOutput", "null") // the process gets its log handed over
	set("StandardError", "null")
	// The unit stays, ended or failed, until hostagent has read how it ended.
	set("RemainAfterExit", true)
	// When the machine shuts down hostagent ends first, so it can ask its guests
	// to power off.
	set("Before", []string{"hostagent.service"})
	set("TimeoutStopUSec", uint64(10e6))

	bounds(spec, set)

	// A user that no other process has.
	set("DynamicUser", true) // with NoNewPrivileges, ProtectSystem=strict, PrivateTmp, RemoveIPC and RestrictSUIDSGID
	if len(c.groups) > 0 {
		set("SupplementaryGroups", c.groups)
	}
	set("CapabilityBoundingSet", uint64(0))
	set("PrivateUsers", true)
	set("KeyringMode", "private")
	set("UMask", uint32(0o077))

	// Files, devices, processes.
	set("ProtectHome", "yes")
	set("ProtectProc", "invisible")
	set("ProcSubset", "pid")
	set("PrivateDevices", true)
	set("DevicePolicy", "closed")
	var allow []deviceAllow
	var bind []bindPath
	for _, d := range spec.Needs.Devices {
		allow = append(allow, deviceAllow{d, "rw"})
		bind = append(bind, bindPath{d, d, false, msRec})
	}
	if allow != nil {
		set("DeviceAllow", allow)
		set("BindPaths", bind)
	}
	set("PrivateIPC", true)

	// Network. Sockets, tap and vhost come as descriptors, from hostagent's
	// network namespace.
	families := []string{"AF_UNIX"}
	if spec.Needs.Network {
		families = append(families, "AF_INET", "AF_INET6")
	} else {
		set("PrivateNetwork", true)
		set("IPAddressDeny", anyAddress)
	}
	set("RestrictAddressFamilies", nameList{true, families})

	// Kernel. ProtectKernelTunables= is left out: /proc/sys is not there (ProcSubset),
	// nothing in /sys is this user's to write, and its mounts cost a start 6 ms of CPU.
	for _, name := range []string{
		"ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
		"ProtectHostname", "RestrictRealtime", "LockPersonality",
	} {
		set(name, true)
	}
	set("RestrictNamespaces", uint64(0)) // none may be made
	set("MemoryDenyWriteExecute", !spec.Needs.Translates)
	set("SystemCallArchitectures", []string{"native"})
	set("SystemCallFilter", nameList{true, []string{"@system-service", "seccomp"}}) // seccomp: QEMU's own filter
	deny := []string{"@privileged", "@resources", "@keyring", "@chown", "@setuid"}
	if !spec.Needs.Network {
		// It was handed its sockets. RestrictAddressFamilies= would leave it the
		// system's bus, and does nothing on s390x, whose C libraries make sockets by
		// socketcall.
		deny = append(deny, "socket", "socketpair", "connect", "bind", "socketcall")
	}
	set("SystemCallFilter", nameList{false, deny})
	set("SystemCallErrorNumber", int32(ePerm))
	return out, nil
}

// bounds sets the process's share of the machine.
func bounds(spec *Spec, set func(string, any)) {
	if spec.MemoryBytes > 0 {
		overhead := int64(Overhead)
		if spec.Needs.Translates {
			overhead = OverheadTranslated
		}
		set("MemoryMax", uint64(spec.MemoryBytes+overhead))
	}
	set("OOMPolicy", "kill")
	set("TasksMax", uint64(maxTasks))
	set("LimitNOFILE", uint64(1024))
	set("LimitCORE", uint64(0)) // guest memory never lies on the node's disk
	r := spec.Resources
	if r.CPUWeight > 0 {
		set("CPUWeight", uint64(r.CPUWeight))
	}
	if r.CPUPercent > 0 {
		set("CPUQuotaPerSecUSec", uint64(r.CPUPercent)*10_000) // microseconds of CPU a second
	}
	if r.IOWeight > 0 {
		set("IOWeight", uint64(r.IOWeight))
	}
}

// objectPath is where systemd shows a unit: everything but letters and digits is
// written _xx.
func objectPath(unit string) dbus.ObjectPath {
	var b strings.Builder
	b.WriteString("/org/freedesktop/systemd1/unit/")
	for i, c := range []byte(unit) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if letter || c >= '0' && c <= '9' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return dbus.ObjectPath(b.String())
}

// Kinds of a main process's end, ExecMainCode: si_code of SIGCHLD.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// unitState is what a unit says of itself.
type unitState struct {
	Sub        string // SubState: running, exited, failed, dead...
	Invocation string // 32 hex digits
	MainPID    uint32
	Code       int32 // ExecMainCode
	Status     int32 // ExecMainStatus: exit status or signal
	Result     string
}

// ended tells whether the main process has ended and the unit knows how.
func (u *unitState) ended() bool { return slices.Contains([]string{"exited", "failed", "dead"}, u.Sub) }

// exit is how the main process ended.
func (u *unitState) exit() Exit {
	switch u.Code {
	case cldExited:
		return Exit{Code: int(u.Status), Known: true}
	case cldKilled, cldDumped:
		return Exit{Code: -1, Signal: signal(u.Status), Known: true, OOM: u.Result == "oom-kill"}
	}
	return Exit{}
}

// setupFailures are statuses of a unit's process that never got as far as its
// program; systemd.exec(5), "Process Exit Codes".
var setupFailures = map[int32]string{
	200: "CHDIR", 203: "EXEC", 206: "IOPRIO", 208: "STDIN", 209: "STDOUT", 210: "CHROOT", 216: "GROUP", 217: "USER",
	218: "CAPABILITIES", 219: "CGROUP", 220: "SETSID", 222: "STDERR", 224: "PAM", 225: "NETWORK", 226: "NAMESPACE",
	227: "NO_NEW_PRIVILEGES", 228: "SECCOMP", 231: "APPARMOR", 232: "ADDRESS_FAMILIES", 238: "STATE_DIRECTORY",
	243: "CREDENTIALS",
}

// why is a failed start in words.
func (u *unitState) why() string {
	if name := setupFailures[u.Status]; name != "" && u.Code == cldExited {
		return fmt.Sprintf("its process was not started (%d/%s)", u.Status, name)
	}
	if e := u.exit(); e.Known {
		return "its process ended before QEMU ran: " + e.String()
	}
	return "its process was not started (" + u.Result + ")"
}
