// Package node examines a machine: can it run sealed guests, and if not, what
// is there to do? Each line of its report is one [Finding]. It reads the files
// that the kernel shows and asks QEMU; it changes nothing.
//
// The rules are pure: what they read comes from a [Machine], of which [Local] is
// the real one.
package node

import (
	"context"
	"io/fs"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Result is how a check ended.
type Result string

// Results. A node without a Fail can run guests; a Warn is worth a look.
const (
	Pass Result = "PASS"
	Warn Result = "WARN"
	Fail Result = "FAIL"
)

// Finding is a line of the report.
type Finding struct {
	Check  string // stable name, such as kvm-device
	Result Result
	Says   string // what is the case
	Remedy string // what to do; empty for Pass
}

// Space is a folder's file system.
type Space struct {
	Kind        string // such as ext4; "0x6969" if its magic number has no name here
	Free, Total uint64 // bytes
}

// Machine is what a check may ask a machine.
type Machine struct {
	Root fs.FS  // where sys, proc, dev and run are found
	Arch string // as uname tells, such as s390x
	CPUs int    // that it runs guests on
	// Open opens a device for reading and writing, and closes it.
	Open func(path string) error
	// Space finds the file system of a folder, or of the nearest one above it
	// that is there.
	Space func(path string) (Space, error)
	// QEMU asks a program what it can do with an accelerator: kvm, tcg.
	QEMU func(ctx context.Context, binary, accel string) (qemu.Capabilities, error)
	// Systemd is systemd's version, 0 where systemd does not run.
	Systemd func(ctx context.Context) (int, error)
}

// Options say what is to be examined.
type Options struct {
	Emulated     bool   // the emulated platform
	EmulatedHost string // its host's folder
	Force        bool   // even on a machine that has Secure Execution
	QEMU         string // program
	State        string // folder of guests
}

// Check examines a machine. The report's order is that in which a person would
// put things right: machine, kernel, ultravisor, KVM, QEMU, then the rest.
func Check(ctx context.Context, m Machine, o Options) []Finding {
	r := &report{m: m, o: o}
	switch {
	case o.Emulated:
		r.emulated(ctx)
		r.qemu(ctx)
	case r.machine():
		r.ultravisor()
		r.limits()
		r.hostKeys()
		r.kvm()
		r.qemu(ctx)
	}
	r.storage()
	r.memory()
	r.systemd(ctx)
	r.devices()
	return r.findings
}

// Worst is the worst result of a report.
func Worst(findings []Finding) Result {
	worst := Pass
	for _, f := range findings {
		if f.Result == Fail || f.Result == Warn && worst == Pass {
			worst = f.Result
		}
	}
	return worst
}

// report collects findings.
type report struct {
	m        Machine
	o        Options
	findings []Finding
}

func (r *report) pass(check, says string)         { r.add(check, Pass, says, "") }
func (r *report) warn(check, says, remedy string) { r.add(check, Warn, says, remedy) }
func (r *report) fail(check, says, remedy string) { r.add(check, Fail, says, remedy) }

func (r *report) add(check string, result Result, says, remedy string) {
	r.findings = append(r.findings, Finding{check, result, says, remedy})
}
