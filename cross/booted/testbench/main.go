// Command testbench is the init of a plain machine that runs tests of packages
// which want its kernel: it loads the modules of its initrd, runs the programs in
// /tests with the arguments of the file beside each, and powers off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "testbench: runs as PID 1 only")
		os.Exit(2)
	}
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Printf("testbench: mount %s: %v\n", m[1], err)
		}
	}
	if err := loopback(); err != nil {
		fmt.Printf("testbench: set up lo: %v\n", err)
	}
	modules, _ := filepath.Glob("/modules/*")
	for _, m := range modules { // in order
		if err := load(m); err != nil {
			fmt.Printf("testbench: load %s: %v\n", m, err)
		}
	}
	programs, _ := filepath.Glob("/tests/*.test")
	for _, p := range programs {
		args, _ := os.ReadFile(p + ".args")
		cmd := exec.Command(p, strings.Fields(string(args))...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "/tmp", os.Stdout, os.Stdout
		fmt.Printf("testbench: %s: %v\n", filepath.Base(p), cmd.Run())
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// loopback takes the interface lo up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}
