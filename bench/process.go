package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of CPU times in /proc: USER_HZ, 100 on every Linux that Go
// runs on.
const tick = 10 * time.Millisecond

// usage is what some processes hold and have used.
type usage struct {
	RSS     float64       `json:"rss_mib"` // resident set size
	PSS     float64       `json:"pss_mib"` // proportional set size
	Threads int           `json:"threads"`
	Files   int           `json:"descriptors"`
	CPU     time.Duration `json:"cpu_ns"` // since their start
}

// usageOf adds up processes.
func usageOf(pids []int) (u usage, err error) {
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		rollup, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			return u, err
		}
		for line := range strings.Lines(string(rollup)) {
			var to *float64
			f := strings.Fields(line)
			switch {
			case len(f) == 3 && f[0] == "Rss:":
				to = &u.RSS
			case len(f) == 3 && f[0] == "Pss:":
				to = &u.PSS
			default:
				continue
			}
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return u, err
			}
			*to += kib / 1024
		}
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			return u, err
		}
		u.Files += len(fds)
		threads, err := os.ReadDir(dir + "/task")
		if err != nil {
			return u, err
		}
		u.Threads += len(threads)
		cpu, err := cpuOf(pid)
		if err != nil {
			return u, err
		}
		u.CPU += cpu
	}
	return u, nil
}

// cpuOf is a process's own time and that of the children it has waited for.
func cpuOf(pid int) (time.Duration, error) { return statTimes(pid, 14, 17) }

// waitedOf is the time of the children that a process has waited for.
func waitedOf(pid int) (time.Duration, error) { return statTimes(pid, 16, 17) }

// statTimes adds up fields of /proc/PID/stat that are times.
func statTimes(pid, first, last int) (time.Duration, error) {
	fields, err := statFields(pid, first, last)
	var sum time.Duration
	for _, n := range fields {
		sum += time.Duration(n) * tick
	}
	return sum, err
}

// parentOf is a process's parent, 0: it has none or is gone.
func parentOf(pid int) int {
	fields, err := statFields(pid, 4, 4)
	if err != nil {
		return 0
	}
	return fields[0]
}

// statFields are fields of /proc/PID/stat, numbered from 1 as in proc(5), of those
// behind the program's name and the state.
func statFields(pid, first, last int) (fields []int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	for _, word := range f[first-3 : last+1-3] {
		n, err := strconv.Atoi(string(word))
		if err != nil {
			return nil, err
		}
		fields = append(fields, n)
	}
	return fields, nil
}

// clockOf is a process's own time, that of threads that have ended too, to the
// nanosecond: its CPU clock, whose id is made as clock_getcpuclockid(3) does.
func clockOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &t); err != nil {
		return 0, fmt.Errorf("read CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// machineCPU is the time that the machine's processors have not idled.
func machineCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	var sum time.Duration
	for i, word := range strings.Fields(first) {
		if n, err := strconv.Atoi(word); err == nil && i != 4 && i != 5 && i < 9 { // not idle, iowait, guest
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

// running lists all processes.
func running() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// named lists the processes whose program has one of these names.
func named(names ...string) (pids []int) {
	for _, pid := range running() {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		program, _, _ := bytes.Cut(cmdline, []byte{0})
		for _, name := range names {
			if filepath.Base(string(program)) == name {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// listenFresh listens on a socket in the place of a dead one.
func listenFresh(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return net.Listen("unix", path)
}
