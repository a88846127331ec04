package owner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/secexec/secexec/sealed"
)

// hardening returns what the record says of it: sysctls in order of their names.
func (p *Plan) hardening() sealed.Hardening {
	h := p.Hardening
	h.Sysctls = slices.Clone(h.Sysctls)
	slices.SortFunc(h.Sysctls, func(a, b sealed.Sysctl) int { return strings.Compare(a.Name, b.Name) })
	return h
}

// checkHardening refuses sysctls that no record may hold, and modules without
// signatures for a kernel that would not load them.
func (p *Plan) checkHardening(found *prepared) error {
	h := p.hardening()
	if len(h.Sysctls) > sealed.MaxSysctls {
		return fmt.Errorf("plan sysctls: %d, at most %d", len(h.Sysctls), sealed.MaxSysctls)
	}
	for i, s := range h.Sysctls {
		if err := sealed.CheckSysctl(s); err != nil {
			return fmt.Errorf("plan sysctls: %w", err)
		}
		if i > 0 && s.Name == h.Sysctls[i-1].Name {
			return fmt.Errorf("plan sysctls: %s is given twice", s.Name)
		}
	}
	if !p.Strip {
		return nil
	}
	why := enforcing(found.cmdline)
	if why == "" {
		why = found.kernel.EnforcesSignatures()
	}
	if why != "" {
		return fmt.Errorf("strip module signatures: %s, so the guest would load none of its modules: keep the signatures", why)
	}
	return nil
}

// enforcing returns the word of a kernel command line that makes the kernel
// refuse modules without signatures from its start, "" for none. Lockdown that
// begins at the hand-over does not: guestinit's modules are loaded by then.
func enforcing(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		key, value, given := strings.Cut(word, "=")
		switch {
		case key == "lockdown" && (value == "integrity" || value == "confidentiality"),
			strings.ReplaceAll(key, "-", "_") == "module.sig_enforce" && (!given || slices.Contains([]string{"1", "y", "Y", "on"}, value)):
			return "the kernel command line says " + word
		}
	}
	return ""
}
