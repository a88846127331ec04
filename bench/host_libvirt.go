package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// libvirt is libvirtd with the programs that belong to it, and the same guests:
// paused, 64 MiB, a disk, a console in a file and a channel.
type libvirt struct {
	*options
	dir string
	cmd *exec.Cmd
	log *exec.Cmd
}

const domain = `<domain type='qemu'>
  <name>%[1]s</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='s390x' machine='s390-ccw-virtio'>hvm</type><kernel>%[2]s/boot.seimg</kernel></os>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' iommu='on'/><source file='%[2]s/root.img'/><target dev='vda' bus='virtio'/><serial>root</serial>
    </disk>
    <controller type='virtio-serial'><driver iommu='on'/></controller>
    <channel type='unix'><target type='virtio' name='org.secexec.readiness.0'/></channel>
    <console type='file'><source path='%[2]s/console.log'/><target type='sclp'/></console>
    <memballoon model='none'/>
  </devices>
</domain>
`

// newLibvirt makes the guests' files. virsh defines them later, in boot.
func newLibvirt(dir string, o *options) (*libvirt, error) {
	for i := range o.guests {
		gdir := filepath.Join(dir, guestName(i))
		err := errors.Join(os.MkdirAll(gdir, 0o755), blank(filepath.Join(gdir, "boot.seimg"), 1<<20), blank(filepath.Join(gdir, "root.img"), 1<<20))
		if err == nil {
			err = os.WriteFile(filepath.Join(gdir, "domain.xml"), fmt.Appendf(nil, domain, guestName(i), gdir), 0o644)
		}
		if err != nil {
			return nil, err
		}
	}
	return &libvirt{options: o, dir: dir}, nil
}

func (l *libvirt) label() string { return "libvirt" }

func (l *libvirt) pids() []int {
	return named("libvirtd", "virtlogd", "systemd-machined")
}

func virsh(args ...string) []string {
	return append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)
}

func (l *libvirt) boot(ctx context.Context) error {
	first := l.cmd == nil
	if first {
		l.log = exec.Command("virtlogd")
		if err := l.log.Start(); err != nil {
			return err
		}
	}
	l.cmd = exec.Command("libvirtd")
	if err := l.cmd.Start(); err != nil {
		return err
	}
	if err := eventually(ctx, func() error { return run1(ctx, virsh("uri")...) }); err != nil {
		return err
	}
	for i := range l.guests {
		if !first {
			break
		}
		if err := run1(ctx, virsh("define", filepath.Join(l.dir, guestName(i), "domain.xml"))...); err != nil {
			return err
		}
	}
	return nil
}

func (l *libvirt) murder() error {
	err := l.cmd.Process.Kill()
	_ = l.cmd.Wait()
	return err
}

func (l *libvirt) start(ctx context.Context, i int) error {
	return run1(ctx, virsh("start", "--paused", guestName(i))...)
}

func (l *libvirt) kill(ctx context.Context, i int) error {
	return run1(ctx, virsh("destroy", guestName(i))...)
}

func (l *libvirt) list(ctx context.Context) (int, error) {
	argv := virsh("list", "--name")
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	return len(strings.Fields(string(out))), err
}

func (l *libvirt) statistics(ctx context.Context) error { return run1(ctx, virsh("domstats")...) }

func (l *libvirt) death(ctx context.Context, i int) (time.Duration, error) {
	argv := virsh("event", "--domain", guestName(i), "--event", "lifecycle")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	time.Sleep(500 * time.Millisecond) // virsh does not tell when it listens
	for _, pid := range named("qemu-system-s390x") {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "guest="+guestName(i)+",") {
			start := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return 0, err
			}
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				return 0, err
			}
			d := time.Since(start)
			return d, cmd.Wait()
		}
	}
	return 0, errors.New("no QEMU to kill")
}

func (l *libvirt) close() error {
	for _, pid := range named("qemu-system-s390x") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	time.Sleep(time.Second)
	for i := range l.guests {
		_ = exec.Command("virsh", "-q", "-c", "qemu:///system", "undefine", guestName(i)).Run()
	}
	for _, cmd := range []*exec.Cmd{l.cmd, l.log} {
		if cmd != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	return nil
}
