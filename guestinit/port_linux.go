package main

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/progress"
	"github.com/secexec/secexec/proto/readiness"
)

// noKeys takes SysRq from the console before anything is there to be harmed:
// its keys are the host's. A kernel without SysRq has no such file.
func noKeys() { _ = os.WriteFile("/proc/sys/kernel/sysrq", []byte("0"), 0) }

// openConsole gives guestinit and, after it, the root's init its standard
// streams.
func (b *boot) openConsole() {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for std := range 3 {
		if fd != std {
			_ = unix.Dup3(fd, std, 0)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// openPort opens the readiness port. A guest without one boots all the same.
func (b *boot) openPort() {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		b.bootID = parseUUID(string(text))
	}
	var port progress.Port
	if serial, err := progress.OpenSerial(); err == nil {
		b.port, port = serial, serial
	}
	b.stages = progress.New(port, b.bootID)
}

func (b *boot) pass(stage string) { b.stages.Pass(stage, millis()) }

// powerOff is the one place where a failure ends: code and sentence on port and
// console, then power-off. It does not return.
func (b *boot) powerOff(err error) {
	f := failInternal
	errors.As(err, &f)
	b.stages.Fail(string(f), millis())
	if fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err == nil {
		_, _ = unix.Write(fd, []byte("\r\nsecexec: guest stopped: "+f.Error()+"\r\n"))
	}
	unix.Sync()
	time.Sleep(50 * time.Millisecond) // for console and port to drain; nobody is asked
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
	for {
		time.Sleep(time.Hour)
	}
}

// millis is the time since the kernel started.
func millis() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}

// parseUUID parses a UUID's text; anything else gives zeros.
func parseUUID(s string) (id [readiness.IDSize]byte) {
	digits := strings.ReplaceAll(strings.TrimSpace(s), "-", "")
	if len(digits) != 2*len(id) {
		return id
	}
	for i := range id {
		hi, lo := strings.IndexByte("0123456789abcdef", digits[2*i]), strings.IndexByte("0123456789abcdef", digits[2*i+1])
		if hi < 0 || lo < 0 {
			return [readiness.IDSize]byte{}
		}
		id[i] = byte(hi<<4 | lo)
	}
	return id
}
