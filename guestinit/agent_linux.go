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
// over a socket pair of packets, whose other end it returns:
//
//	guestinit                         guestagent
//	    │ fork, exec "@guestagent" ───▶ │ fd 3: socket, 4: readiness port,
//	    │                               │ 5: notification socket,
//	    │                               │ 6: channel's port, 7: its vsock listener,
//	    │                               │ 8: folder of secrets, 9: cgroup
//	    │ handoff (package sealed) ───▶ │ reads and wipes it, prepares its keys
//	    │ exec of the root's init       │
//	    └ closes the socket's end ────▶ │ end of file: the hand-over is done
//
// A guestinit that stays PID 1 does not close it: package workload.
//
// The name starts with @ so that systemd spares it when it kills all that is
// left at shutdown (systemd: ROOT_STORAGE_DAEMONS).
func startAgent(b *boot, record *sealed.Record, notify int) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(pair[1])
	if err := launchAgent(b, record, pair, notify); err != nil {
		unix.Close(pair[0])
		return -1, err
	}
	return pair[0], nil
}

func launchAgent(b *boot, record *sealed.Record, pair [2]int, notify int) error {
	if err := os.MkdirAll(agentCgroup, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	// What is missing is /dev/null, so that no file of guestagent's own gets its
	// number.
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	files := []uintptr{0, 1, 2, uintptr(pair[1]), uintptr(null), uintptr(null)}
	if b.port != nil {
		files[4] = uintptr(b.port.FD)
	}
	if notify >= 0 {
		files[5] = uintptr(notify)
	}
	if record.Channel != nil {
		c, err := openChannel()
		defer c.close()
		if err != nil {
			return err
		}
		cgroup, err := unix.Open(agentCgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer unix.Close(cgroup)
		for _, fd := range []int{c.port, c.vsock, c.secrets, cgroup} {
			if fd < 0 {
				fd = null
			}
			files = append(files, uintptr(fd))
		}
	}
	pid, err := syscall.ForkExec(agentPath, []string{"@guestagent"}, &syscall.ProcAttr{
		Dir: "/proc", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start guestagent: %w", err)
	}
	if err := os.WriteFile(agentCgroup+"/cgroup.procs", fmt.Appendf(nil, "%d\n", pid), 0); err != nil {
		return fmt.Errorf("move guestagent to its cgroup: %w", err)
	}
	h := sealed.Handoff{
		IdentitySeed: record.IdentitySeed, ImageID: record.ImageID, RootID: record.Root.ID, RootMode: record.Root.Mode,
		BootID: b.bootID, Ready: record.Ready, Channel: record.Channel,
	}
	if record.Exec != nil {
		h.StopSignal = record.Exec.StopSignal
	}
	for _, s := range b.stages.Passed {
		h.Stages = append(h.Stages, sealed.Stage{Name: s.Name, Millis: s.Millis})
	}
	raw, err := h.Marshal()
	if err != nil {
		return err
	}
	defer raw.Wipe()
	if err := sendHandoff(pair[0], raw); err != nil {
		return err
	}
	if b.port != nil {
		unix.Close(b.port.FD)
		b.port = nil
		b.stages.Detach()
	}
	return nil
}
