package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What tasks may leave, in the order of the report.
var kinds = []string{"processes", "mounts", "sockets", "files", "descriptors of containerd", "descriptors of hostagent"}

// settleTime is how long nothing of a task may be seen until all of it has
// passed: containerd calls a shim's delete command when the shim is gone.
const settleTime = 200 * time.Millisecond

// settle waits, for a while, until no process is left.
func (e *engine) settle() {
	quiet := time.Now()
	for end := quiet.Add(20 * time.Second); time.Since(quiet) < settleTime && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if len(e.processes()) > 0 {
			quiet = time.Now()
		}
	}
}

// holds counts what there is.
func (e *engine) holds() (map[string]int, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	held := map[string]int{"processes": len(e.processes()), "mounts": 0}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, e.path("")) {
			held["mounts"]++
		}
	}
	for kind, patterns := range map[string][]string{
		"sockets": {"/run/containerd/s/*"},
		"files": {"/run/containerd/runc/bench/*", e.path("shims/*"), e.path("*.console"), e.path("state/io.containerd.runtime.v2.task/*/*"), e.path("root/io.containerd.runtime.v2.task/*/*"),
			e.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots/*"), e.path("ours/state/guests/*"), e.path("ours/run/guests/*")},
	} {
		for _, pattern := range patterns {
			files, err := filepath.Glob(pattern)
			if err != nil {
				return nil, err
			}
			held[kind] += len(files)
		}
	}
	for kind, pid := range map[string]int{"descriptors of containerd": e.containerd.Process.Pid, "descriptors of hostagent": e.hostagent.cmd.Process.Pid} {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, err
		}
		held[kind] = len(files)
	}
	return held, nil
}

// left does something and counts what there is more of afterwards, when it has
// had the time to go.
func (e *engine) left(do func() error) (map[string]int, error) {
	e.settle()
	before, err := e.holds()
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	e.settle()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		after, err := e.holds()
		if err != nil {
			return nil, err
		}
		more := 0
		for kind, n := range before {
			after[kind] = max(0, after[kind]-n)
			more = max(more, after[kind])
		}
		if more == 0 || time.Now().After(end) {
			return after, nil
		}
	}
}
