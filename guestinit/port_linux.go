package main

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/progress"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/workload"
)

// openStreams gives guestinit and, after it, the root's init its standard
// streams.
func (b *boot) openStreams() {
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

// begin starts to tell of stages.
func (b *boot) begin() {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		b.bootID = parseUUID(string(text))
	}
	b.stages = progress.New(nil, b.bootID)
}

func (b *boot) pass(stage string) {
	b.lookForPort()
	b.stages.Pass(stage, millis())
}

// lookForPort opens the readiness port where it was not there before. A guest
// without one boots all the same; but the kernel may still be at finding devices
// when PID 1 starts, so whatever is to be told looks again.
func (b *boot) lookForPort() {
	if b.port == nil {
		if serial, err := progress.OpenSerial(); err == nil {
			b.port = serial
			b.stages.Attach(serial)
		}
	}
}

// powerOff is the one place where a failure ends: code and sentence on port and
// console, then power-off. It does not return.
func (b *boot) powerOff(err error) {
	f := failInternal
	errors.As(err, &f)
	if b.agent > 0 {
		_ = unix.Send(b.agent, workload.Failed{Code: string(f)}.Bytes(), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		b.leave()
	} else {
		b.lookForPort()
		b.stages.Fail(string(f), millis())
	}
	sayOnConsole("guest stopped: " + f.Error())
	unix.Sync()
	off()
}

// sayOnConsole writes a line, or none where nobody takes it.
func sayOnConsole(text string) {
	if fd, err := openConsole(); err == nil {
		_, _ = unix.Write(fd, []byte("\r\nsecexec: "+text+"\r\n"))
		unix.Close(fd)
	}
}

// openConsole opens the console so that no write to it waits.
func openConsole() (int, error) {
	return unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// off powers off. It does not return.
func off() {
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
