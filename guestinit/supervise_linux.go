package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/handover"
	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/guestinit/network"
	"github.com/secexec/secexec/guestinit/supervise"
	"github.com/secexec/secexec/sealed"
)

const (
	failProgram      failure = "G140"
	failSurroundings failure = "G141"
	failStart        failure = "G142" // said on the console alone: the restart policy decides
)

// supervisorMemory is a soft limit: what guestinit itself holds beside a workload
// is little.
const supervisorMemory = 12 << 20

// goodbye is how long guestagent has to tell the host of the end. It hangs up
// when it has: a program that ends at once may do so before guestagent has found
// its port, and its exit status would be lost on a slow machine.
const goodbye = 10 * time.Second

// leave waits until guestagent has told the host of the end.
func (b *boot) leave() {
	events := []unix.PollFd{{Fd: int32(b.agent)}} // POLLHUP alone
	_, _ = unix.Poll(events, int(goodbye.Milliseconds()))
}

// findProgram finds what is run in the mounted root: its init, or its workload's
// program.
func findProgram(record *sealed.Record) (string, error) {
	if record.Workload == nil {
		if err := handover.CheckInit(newRoot, record.Exec.Init); err != nil {
			return "", failInit.because(err)
		}
		return record.Exec.Init, nil
	}
	program, err := supervise.Find(newRoot, record.Workload)
	if err != nil {
		return "", failProgram.because(err)
	}
	return program, nil
}

// prepareWorkload does what a workload needs of the initramfs: it tells which
// mounts move into the root, and brings up the network. A failure here is still
// told on the readiness port.
func prepareWorkload(w *sealed.Workload) (moved []string, link *network.Interface, err error) {
	if w == nil {
		return mounts.Moved, nil, nil
	}
	if moved, err = supervise.Moved(newRoot); err != nil {
		return nil, nil, failSurroundings.because(err)
	}
	if link, err = network.Up(context.Background(), newRoot, w.Hostname, w.Network); err != nil {
		return nil, nil, networkFailure(err)
	}
	return moved, link, nil
}

// supervise runs the workload and powers off when it is not run again.
func (b *boot) supervise(record *sealed.Record, program string, link *network.Interface) error {
	b.watchdog.Stop()
	// All that was to be wiped is; from here on guestinit lives long.
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(supervisorMemory)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go link.Keep(ctx)

	console, err := openConsole()
	if err != nil {
		console = -1
	}
	s := supervise.Supervisor{
		Workload: record.Workload, Path: program, Env: notifyEnv(record), Agent: b.agent, Console: console,
		Hold:   record.Channel != nil && len(record.Channel.Secrets) > 0,
		Failed: func() { sayOnConsole(failStart.Error()) },
	}
	status, err := s.Run()
	if err != nil {
		return failSurroundings.because(err)
	}
	var data []string
	for _, d := range record.Data {
		data = append(data, d.Mount)
	}
	supervise.Unmount(data)
	b.leave()
	sayOnConsole(fmt.Sprintf("the workload ended with status %d", status))
	off()
	return nil
}
