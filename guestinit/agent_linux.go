package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// agentCgroup is guestagent's own, so that the root's init, which manages
// cgroups, neither counts nor kills it.
const agentCgroup = "/sys/fs/cgroup/secexec"

// startAgent starts guestagent from the initramfs and tells it what it needs
// over a pipe:
//
//	guestinit                         guestagent
//	    │ fork, exec "@guestagent" ───▶ │ fd 3: pipe, fd 4: readiness port
//	    │ handoff (package sealed) ───▶ │ reads it, prepares its keys
//	    │ exec of the root's init       │
//	    └ closes the pipe's end ──────▶ │ end of file: the hand-over is done, "ready"
//
// The name starts with @ so that systemd spares it when it kills all that is
// left at shutdown (systemd: ROOT_STORAGE_DAEMONS).
func startAgent(b *boot, record *sealed.Record) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	port := -1
	if b.port != nil {
		port = b.port.FD
	}
	files := []uintptr{0, 1, 2, uintptr(pipe[0])}
	if port >= 0 {
		files = append(files, uintptr(port))
	}
	pid, err := syscall.ForkExec(agentPath, []string{"@guestagent"}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start guestagent: %w", err)
	}
	if err := os.MkdirAll(agentCgroup, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := os.WriteFile(agentCgroup+"/cgroup.procs", fmt.Appendf(nil, "%d\n", pid), 0); err != nil {
		return fmt.Errorf("move guestagent to its cgroup: %w", err)
	}
	h := sealed.Handoff{
		IdentitySeed: record.IdentitySeed, ImageID: record.ImageID, RootID: record.Root.ID,
		BootID: b.bootID, StopSignal: record.StopSignal,
	}
	for _, s := range b.stages.Passed {
		h.Stages = append(h.Stages, sealed.Stage{Name: s.Name, Millis: s.Millis})
	}
	raw, err := h.Marshal()
	if err != nil {
		return err
	}
	defer raw.Wipe()
	// Its length first; both fit into the pipe, so this never waits. The
	// writing end stays open until exec closes it.
	message := append([]byte{byte(len(raw) >> 8), byte(len(raw))}, raw...)
	defer clear(message)
	if n, err := unix.Write(pipe[1], message); err != nil || n != len(message) {
		return fmt.Errorf("tell guestagent: %d of %d bytes: %w", n, len(message), err)
	}
	if port >= 0 {
		unix.Close(port)
		b.port = nil
		b.stages.Detach()
	}
	return nil
}
