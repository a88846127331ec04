// Package usage reads what a guest's QEMU takes from its node: processor time,
// memory, threads, disk and network bytes. Everything comes from small files of
// /proc, cgroup v2 and sysfs, so that asking costs the guest nothing.
package usage

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Use is what a guest took since its start.
type Use struct {
	CPU     time.Duration // user and system, of all threads
	Memory  uint64        // resident bytes, QEMU's own included
	Threads uint32

	// What QEMU had fetched from and sent to storage. DiskKnown is false where
	// this process may not read it.
	DiskKnown           bool
	DiskRead, DiskWrite uint64

	// What went into and out of the guest by its tap interfaces. NetKnown is
	// false for a guest without one: user networking is not counted.
	NetKnown      bool
	NetIn, NetOut uint64
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that Linux runs QEMU on.
const tick = 10 * time.Millisecond

// maxFile bounds the small files that are read; each is made by one read.
const maxFile = 4 << 10

var errForm = errors.New("file has another form")

// stat is what matters of /proc/PID/stat.
type stat struct {
	cpu     time.Duration
	threads uint32
	start   uint64 // clock ticks since boot
}

// parseStat reads /proc/PID/stat. The process chose its own name (field 2), so
// fields count from the last ')'.
func parseStat(text []byte) (stat, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("read process status: %w", errForm)
	}
	var n [4]uint64
	for i, field := range []int{14, 15, 20, 22} {
		v, err := strconv.ParseUint(string(fields[field-3]), 10, 63)
		if err != nil {
			return stat{}, fmt.Errorf("read process status: field %d: %w", field, errForm)
		}
		n[i] = v
	}
	return stat{cpu: time.Duration(n[0]+n[1]) * tick, threads: uint32(n[2]), start: n[3]}, nil
}

// parseStatm reads the resident pages of /proc/PID/statm.
func parseStatm(text []byte) (pages uint64, err error) {
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0, fmt.Errorf("read process memory: %w", errForm)
	}
	return strconv.ParseUint(string(fields[1]), 10, 48)
}

// value finds the number behind a name at the start of a line, as in
// /proc/PID/io ("read_bytes: 4096") and cpu.stat ("usage_usec 4096").
func value(text []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(bytes.TrimPrefix(rest, []byte(":")))), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// ioStat sums bytes over the devices of a cgroup's io.stat.
func ioStat(text []byte) (read, write uint64) {
	for line := range bytes.Lines(text) {
		for _, word := range bytes.Fields(line) {
			name, number, _ := strings.Cut(string(word), "=")
			n, err := strconv.ParseUint(number, 10, 64)
			switch {
			case err != nil:
			case name == "rbytes":
				read += n
			case name == "wbytes":
				write += n
			}
		}
	}
	return read, write
}

// unitGroup finds the cgroup of a guest's own unit in /proc/PID/cgroup: one in
// secexec.slice. A QEMU that is hostagent's own child has none.
func unitGroup(text []byte) string {
	for line := range bytes.Lines(text) {
		path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::/"))
		if !ok {
			continue
		}
		parts := strings.Split(string(path), "/")
		for i, part := range parts {
			if part == ".." || part == "." || part == "" {
				return ""
			}
			if strings.HasPrefix(part, "secexec") && strings.HasSuffix(part, ".slice") && i+1 < len(parts) {
				return strings.Join(parts, "/")
			}
		}
	}
	return ""
}
