package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxCmdline bounds how much of a process's arguments is searched.
const maxCmdline = 256 << 10

// bootID is this boot's identity.
func bootID() (string, error) {
	text, err := readSmall("/proc/sys/kernel/random/boot_id", 64)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// readStat reads a process's status; the error wraps ErrGone if it does not exist.
func readStat(pid int) (stat, error) {
	text, err := readSmall(procFile(pid, "stat"), maxStat)
	if err != nil {
		return stat{}, gone(pid, err)
	}
	return parseStat(text)
}

// identify is the identity of the process that has the number now.
func identify(pid int) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	s, err := readStat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, StartTicks: s.start, BootID: boot}, nil
}

// processesOf lists the live processes of this user whose arguments name the
// UUID. Other users' processes can put what they like into their arguments, so
// they do not count.
func processesOf(uuid string) ([]Identity, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Identity
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The identity comes first: if the number changes hands afterwards,
		// Adopt will refuse it.
		id, err := identify(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := os.Stat("/proc/" + name)
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue
		}
		cmdline, err := readSmall(procFile(pid, "cmdline"), maxCmdline)
		if err == nil && slices.Contains(uuids(splitArgs(cmdline)), uuid) {
			found = append(found, id)
		}
	}
	return found, nil
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// gone turns "no such process" into ErrGone.
func gone(pid int, err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return fmt.Errorf("process %d: %w", pid, err)
}

// readSmall reads at most limit bytes of a file.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
