package main

import (
	"github.com/secexec/secexec/guestinit/hardening"
	"github.com/secexec/secexec/sealed"
)

// seed makes the kernel's random numbers good ones before any key is made.
func seed(record *sealed.Record) error {
	defer record.EntropySeed.Wipe()
	if err := hardening.SeedRandom(record.EntropySeed, entropyDeadline); err != nil {
		return failEntropy.because(err)
	}
	return nil
}

// harden does what the record asks for, when modules are loaded and volumes
// mounted.
func harden(h *sealed.Hardening) error {
	if err := hardening.Sysctls(h.Sysctls); err != nil {
		return failSysctl.because(err)
	}
	if err := hardening.Lock(h); err != nil {
		return failLock.because(err)
	}
	return nil
}
