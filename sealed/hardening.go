package sealed

import "strings"

// Lockdown is the kernel's lockdown mode (kernel_lockdown(7)).
type Lockdown uint8

// Lockdown modes.
const (
	LockdownNone            Lockdown = 0
	LockdownIntegrity       Lockdown = 1
	LockdownConfidentiality Lockdown = 2
)

// MaxSysctls bounds a record's sysctls.
const MaxSysctls = 64

// Hardening is what the owner asks for beyond what guestinit always does.
type Hardening struct {
	Lockdown    Lockdown // from the hand-over on
	LockModules bool     // no module is loaded after the hand-over (kernel.modules_disabled)
	HidePID     bool     // processes see only their user's (proc's hidepid=invisible)
	Sysctls     []Sysctl // in order of their names, after guestinit's own
}

// Sysctl is a kernel parameter, set before the hand-over.
type Sysctl struct {
	Name  string // as sysctl.d has it with dots, such as "vm.swappiness"
	Value string
}

func (h *Hardening) check() error {
	if h.Lockdown > LockdownConfidentiality {
		return invalid("lockdown %d is none of 0, 1, 2", h.Lockdown)
	}
	if len(h.Sysctls) > MaxSysctls {
		return invalid("%d sysctls, at most %d", len(h.Sysctls), MaxSysctls)
	}
	for i, s := range h.Sysctls {
		if i > 0 && s.Name <= h.Sysctls[i-1].Name {
			return invalid("sysctls are not in order of their names, each once")
		}
	}
	for _, s := range h.Sysctls {
		if err := CheckSysctl(s); err != nil {
			return err
		}
	}
	return nil
}

// CheckSysctl refuses what may not be a record's Sysctl.
func CheckSysctl(s Sysctl) error {
	if !plainName(s.Name) || strings.Contains(s.Name, "..") || strings.HasSuffix(s.Name, ".") || !strings.Contains(s.Name, ".") {
		return invalid("sysctl %q is no name such as vm.swappiness", s.Name)
	}
	if s.Value == "" || len(s.Value) > MaxPath || strings.ContainsFunc(s.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return invalid("sysctl %s has no value of one line", s.Name)
	}
	return nil
}

func (h *Hardening) fields(c *codec) {
	c.u8((*uint8)(&h.Lockdown))
	c.flag(&h.LockModules)
	c.flag(&h.HidePID)
	list(c, &h.Sysctls, MaxSysctls, func(c *codec, s *Sysctl) {
		c.path(&s.Name)
		c.path(&s.Value)
	})
}
