package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/secexec/secexec/owner/buildfile"
	"github.com/secexec/secexec/sealed"
)

// addHardening adds the flags of the build file's section hardening.
func (b *buildFlags) addHardening(f *pflag.FlagSet) {
	g := &b.given.Hardening
	f.StringVar(&g.Lockdown, "lockdown", "none", "kernel lockdown `MODE` from the hand-over on: none, integrity, confidentiality")
	b.field("lockdown", "hardening.lockdown", func(f *buildfile.File) { f.Hardening.Lockdown = g.Lockdown })
	f.BoolVar(&g.LockModules, "lock-modules", false, "load no kernel module after the hand-over")
	b.field("lock-modules", "hardening.lock_modules", func(f *buildfile.File) { f.Hardening.LockModules = g.LockModules })
	f.BoolVar(&g.HidePIDs, "hide-pids", false, "show users only their own processes in /proc")
	b.field("hide-pids", "hardening.hide_pids", func(f *buildfile.File) { f.Hardening.HidePIDs = g.HidePIDs })
	f.StringArrayVar(&g.Sysctls, "sysctl", nil, "kernel parameter `NAME=VALUE` to set before the hand-over (repeatable)")
	b.field("sysctl", "hardening.sysctls", func(f *buildfile.File) { f.Hardening.Sysctls = g.Sysctls })
}

// hardeningOf is what the build file's section asks for.
func hardeningOf(f buildfile.Hardening) (sealed.Hardening, error) {
	h := sealed.Hardening{LockModules: f.LockModules, HidePID: f.HidePIDs}
	switch f.Lockdown {
	case "", "none":
	case "integrity":
		h.Lockdown = sealed.LockdownIntegrity
	case "confidentiality":
		h.Lockdown = sealed.LockdownConfidentiality
	default:
		return h, usageError{fmt.Errorf("--lockdown %s is none of none, integrity and confidentiality", f.Lockdown)}
	}
	for _, text := range f.Sysctls {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return h, usageError{fmt.Errorf("sysctl %q is no NAME=VALUE", text)}
		}
		h.Sysctls = append(h.Sysctls, sealed.Sysctl{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	return h, nil
}
