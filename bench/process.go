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
)

// tick is the unit of CPU times in /proc: USER_HZ, 100 on every Linux that Go
// runs on.
const tick = 10 * time.Millisecond

// usage is what some processes hold and have used.
type usage struct {
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
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				kib, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					return u, err
				}
				u.PSS += kib / 1024
			}
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

// cpuOf is a process's own time and that of the children it has waited for:
// fields 14 to 17 of /proc/PID/stat.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	var sum time.Duration
	for _, word := range f[14-3 : 18-3] {
		n, err := strconv.Atoi(string(word))
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
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

// named lists the processes whose program has one of these names.
func named(names ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
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
