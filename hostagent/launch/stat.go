package launch

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxStat bounds /proc/PID/stat: 52 numbers and a name of at most 64 bytes.
const maxStat = 4096

// stat is what identity needs of /proc/PID/stat.
type stat struct {
	state byte   // field 3: R, S, D, T, ... Z zombie, X dead
	start uint64 // field 22: start time in clock ticks since boot
}

// dead tells whether the process has ended and waits only to be reaped.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// parseStat reads /proc/PID/stat. The process chose its own name (field 2), which
// may hold spaces, parentheses and line ends: fields count from the last ')'.
func parseStat(text []byte) (stat, error) {
	if len(text) > maxStat {
		return stat{}, fmt.Errorf("read process status: %d bytes, at most %d", len(text), maxStat)
	}
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return stat{}, errors.New("read process status: no process name")
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, errors.New("read process status: fields are missing")
	}
	start, err := strconv.ParseUint(string(fields[22-3]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read process status: start time: %w", err)
	}
	return stat{state: fields[0][0], start: start}, nil
}

// uuids lists what an argument vector names as QEMU's arguments do: each
// argument after "-uuid".
func uuids(argv []string) []string {
	var found []string
	for i := 1; i+1 < len(argv); i++ {
		if argv[i] == "-uuid" {
			found = append(found, argv[i+1])
			i++
		}
	}
	return found
}

// splitArgs splits /proc/PID/cmdline: arguments ended by NUL. A process may have
// written anything there.
func splitArgs(cmdline []byte) []string {
	return strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
}
