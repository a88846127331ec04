// Command guestinit is PID 1 of a sealed guest. It believes the sealed record in
// its own encrypted initrd and nothing else: it loads the modules named there,
// maps the root disk with the key and geometry from there, mounts it, starts
// guestagent and becomes the root's init, or, in a root that has none, runs its
// one program.
//
// Any failure ends in a power-off with a fixed sentence; there is no shell, no
// option on the kernel command line, and no wait without an end.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/secexec/secexec/guestinit/handover"
	"github.com/secexec/secexec/guestinit/hardening"
	"github.com/secexec/secexec/guestinit/kmod"
	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/guestinit/progress"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/sealed"
)

// Paths in the initrd, as package initrd lays them out, and where the root goes.
const (
	recordPath = "/sealed.record"
	modulesDir = "/modules/"
	agentPath  = "/guestagent"
	newRoot    = "/newroot"
)

// Bounds of waiting.
const (
	bootDeadline    = 120 * time.Second // for all of guestinit
	diskDeadline    = 4 * time.Second   // for a volume's disk to appear
	entropyDeadline = 30 * time.Second  // for the kernel's random pool
	pollEvery       = 2 * time.Millisecond
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit: runs only as PID 1 of a sealed guest")
		os.Exit(2)
	}
	// The thread keyring, and with it the volume key's way to dm-crypt, belongs
	// to one thread.
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // short life, and no copies of what is to be wiped
	b := &boot{stages: progress.New(nil, [readiness.IDSize]byte{})}
	b.watchdog = time.AfterFunc(bootDeadline, func() { b.powerOff(failTooSlow) })
	defer func() {
		if recover() != nil {
			b.powerOff(failInternal)
		}
	}()
	b.powerOff(b.run())
}

// boot is one boot's state.
type boot struct {
	stages *progress.Stages
	port   *progress.Serial
	bootID [readiness.IDSize]byte
	agent  int // socket to guestagent, which has the port then; 0: it does not run yet

	watchdog *time.Timer
}

// load loads modules, in order.
func load(modules []sealed.Module, which func(file string) bool) error {
	for _, m := range modules {
		if !which(m.File) {
			continue
		}
		if err := kmod.Load(modulesDir+m.File, m.Optional); err != nil {
			return failModule.because(err)
		}
	}
	return nil
}

// run goes from nothing to the root's init, or to the end of its one program. It
// returns only on failure.
func (b *boot) run() error {
	if err := mounts.Kernel(); err != nil {
		return failMounts.because(err)
	}
	hardened := hardening.Start()
	b.openStreams()
	b.begin()
	b.pass(readiness.StageKernel)
	if hardened != nil {
		return failSysctl.because(hardened)
	}

	record, err := readRecord()
	if err != nil {
		return failRecord.because(err)
	}
	defer record.Wipe()
	if err := load(record.Modules, func(file string) bool { return !isVsock(file) }); err != nil {
		return err
	}
	if err := seed(record); err != nil {
		return err
	}
	device, err := unlock(&record.Root, "root", rootFailures)
	if err != nil {
		return err
	}
	b.pass(readiness.StageUnlocked)
	if err := mountVolumes(record, device); err != nil {
		return err
	}
	if err := swapOn(record.Swap); err != nil {
		return err
	}
	program, err := findProgram(record)
	if err != nil {
		return err
	}
	if record.Channel != nil {
		if err := mounts.Secrets(); err != nil {
			return failSecrets.because(err)
		}
		if hasDevice(virtioDevices, vsockDevice) {
			if err := load(record.Modules, isVsock); err != nil {
				return err
			}
		}
	}
	if err := handover.MaskAutoMounts("/"); err != nil {
		return failHandover.because(err)
	}
	if err := harden(&record.Hardening); err != nil {
		return err
	}
	b.pass(readiness.StageMounted)
	moved, link, err := prepareWorkload(record.Workload)
	if err != nil {
		return err
	}
	b.pass(readiness.StageHandover)
	notify, err := openNotify(record)
	if err != nil {
		return failNotify.because(err)
	}
	agent, err := startAgent(b, record, notify)
	if err != nil {
		return failAgent.because(err)
	}
	b.agent = agent
	record.Wipe()
	if err := handover.SwitchRoot(newRoot, moved); err != nil {
		return failHandover.because(err)
	}
	if record.Workload != nil {
		return b.supervise(record, program, link)
	}
	return failHandover.because(handover.Exec(program, notifyEnv(record)...))
}
