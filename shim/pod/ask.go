package pod

import (
	"regexp"
	"slices"
	"strings"

	"github.com/secexec/secexec/bundle"
)

// checkNamespaces refuses what shares the node's, or another container's,
// namespaces. Without a namespace of a kind a container has its node's; with a
// path it has that of a process.
func (s *spec) checkNamespaces(kind Kind) error {
	if n := s.namespace("user"); n.Type != "" {
		return refuse(UserNamespace, "")
	}
	if s.namespace("network").Type == "" {
		return refuse(HostNetwork, "")
	}
	switch pid := s.namespace("pid"); {
	case pid.Type == "":
		return refuse(HostPID, "")
	case kind == Container && pid.Path != "":
		return refuse(SharedPID, "")
	}
	if s.namespace("ipc").Type == "" {
		return refuse(HostIPC, "")
	}
	return nil
}

// ownSysctls are those that containerd sets unasked, so that pods' programs may
// open ports and sockets of ICMP without rights.
var ownSysctls = []string{"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"}

func (s *spec) checkSysctls() error {
	for name := range s.Linux.Sysctl {
		if !slices.Contains(ownSysctls, name) {
			return refuse(Sysctl, "sysctl %.100q", name)
		}
	}
	return nil
}

// defaultPath is what containerd sets for images without one.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// addedVariable has the names of variables that are added unasked: the pod's
// name, the terminal's kind, and kubelet's two families for each service of the
// namespace (kubernetes.io: enableServiceLinks).
var addedVariable = regexp.MustCompile(`^(HOSTNAME|TERM|[A-Z][A-Z0-9_]*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))$`)

// checkProgram refuses what the image does not say itself: it was sealed for
// nothing else.
func (s *spec) checkProgram() error {
	switch args := s.Process.Args; {
	case len(args) == 0 || args[0] != bundle.ImageProgram:
		// Either of two: the image is another one, or the pod says what to run. An
		// ordinary image's container does the first.
		return refuse(Image, "it would run %.200q", args)
	case len(args) > 1:
		return refuse(Command, "arguments %.200q", args[1:])
	}
	for _, v := range s.Process.Env {
		name, _, _ := strings.Cut(v, "=")
		if v != defaultPath && (len(name) > 1024 || !addedVariable.MatchString(name)) {
			return refuse(Environment, "variable %.100q", name)
		}
	}
	if cwd := s.Process.Cwd; cwd != "/" && cwd != "" {
		return refuse(WorkingDir, "%.200q", cwd)
	}
	return nil
}

// defaultCapabilities are what containerd and ctr give to every container.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// imageUser is bundle.ImageUser.
const imageUser = 65534

// checkRights refuses rights on the node, and users. Rights that are taken away
// (dropped capabilities, seccomp, AppArmor, SELinux, noNewPrivileges) need no
// look: nothing of the guest has them.
func (s *spec) checkRights() error {
	var added []string
	for _, c := range s.Process.Capabilities.Bounding {
		if !slices.Contains(defaultCapabilities, c) {
			added = append(added, c)
		}
	}
	masked := len(s.Linux.Masked) > 0
	switch {
	case s.anyDevice() || !masked && slices.Contains(added, "CAP_SYS_ADMIN"):
		return refuse(Privileged, "")
	case len(added) > 0:
		return refuse(Capability, "capability %.100q", added[0])
	case !masked:
		return refuse(Unmasked, "")
	}
	u := s.Process.User
	if u.UID != imageUser || u.GID != imageUser || slices.ContainsFunc(u.Groups, func(g uint32) bool { return g != imageUser }) {
		return refuse(User, "user %d, group %d and %d", u.UID, u.GID, u.Groups)
	}
	if s.Root.ReadOnly {
		return refuse(ReadOnlyRoot, "")
	}
	return nil
}

// anyDevice tells whether the container may use each device of its node.
func (s *spec) anyDevice() bool {
	for _, d := range s.Linux.Resources.Devices {
		if d.Allow && (d.Type == "" || d.Type == "a") && d.Major == nil {
			return true
		}
	}
	return false
}

// checkOthers refuses what has no counterpart at all.
func (s *spec) checkOthers() error {
	for name, hooks := range s.Hooks {
		if len(hooks) > 0 {
			return refuse(Hook, "hook %.40q", name)
		}
	}
	r := &s.Linux.Resources
	for _, h := range r.HugePages {
		if h.Limit > 0 {
			return refuse(HugePages, "%d bytes of %.20q", h.Limit, h.Size)
		}
	}
	switch {
	case r.BlockIO.there():
		return refuse(Class, "block I/O")
	case r.Network.there():
		return refuse(Class, "network")
	case len(r.RDMA) > 0:
		return refuse(Class, "RDMA")
	case s.Linux.IntelRDT.there():
		return refuse(Class, "RDT")
	}
	for name := range r.Unified {
		if !strings.HasPrefix(name, "memory.") { // kubelet's memory QoS, beside the limit
			return refuse(Class, "%.100q", name)
		}
	}
	return nil
}
