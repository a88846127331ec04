package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// qemuFloor is the time from QEMU's start to its first answer on QMP: nobody
// can start a guest faster.
func qemuFloor(ctx context.Context, dir string, runs int) (float64, error) {
	kernel, disk := filepath.Join(dir, "floor.seimg"), filepath.Join(dir, "floor.img")
	for _, path := range []string{kernel, disk} {
		if err := blank(path, 1<<20); err != nil {
			return 0, err
		}
	}
	return timed(runs, func(int) error {
		socket := filepath.Join(dir, "floor.sock")
		l, err := listenFresh(socket)
		if err != nil {
			return err
		}
		defer l.Close()
		file, err := l.(*net.UnixListener).File()
		if err != nil {
			return err
		}
		defer file.Close()
		cmd := exec.CommandContext(ctx, "qemu-system-s390x", "-M", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-display", "none", "-S",
			"-kernel", kernel, "-drive", "if=virtio,format=raw,file="+disk, "-chardev", "socket,id=q,fd=3,server=on,wait=off", "-mon", "chardev=q,mode=control")
		cmd.ExtraFiles = []*os.File{file}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		c, err := net.DialTimeout("unix", socket, 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		_, err = bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return fmt.Errorf("wait for QMP: %w", err)
		}
		return nil
	})
}
