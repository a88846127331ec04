package usage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/secexec/secexec/hostagent/launch"
)

// Reader reads from a system's folders; the zero value is this system's.
type Reader struct {
	Root string // in front of /proc and /sys, for tests
}

// buffers keep a reading of many guests from making garbage for each.
var buffers = sync.Pool{New: func() any { return new([maxFile]byte) }}

// Read is what the process of a guest takes, and its taps. An error wraps
// launch.ErrGone when exactly that process does not run.
func (r Reader) Read(id launch.Identity, taps []string) (Use, error) {
	b := buffers.Get().(*[maxFile]byte)
	defer buffers.Put(b)
	buf := b[:]
	dir := r.Root + "/proc/" + strconv.Itoa(id.PID) + "/"
	text, err := small(dir+"stat", buf)
	if err != nil {
		return Use{}, fmt.Errorf("read use of process %d: %w", id.PID, errors.Join(launch.ErrGone, err))
	}
	s, err := parseStat(text)
	if err != nil {
		return Use{}, err
	}
	if s.start != id.StartTicks {
		return Use{}, fmt.Errorf("read use of process %d: %w", id.PID, launch.ErrGone)
	}
	u := Use{CPU: s.cpu, Threads: s.threads}
	if text, err := small(dir+"statm", buf); err == nil {
		pages, _ := parseStatm(text)
		u.Memory = pages * uint64(os.Getpagesize())
	}
	if text, err := small(dir+"cgroup", buf); err == nil {
		if group := unitGroup(text); group != "" {
			r.group(group, &u, buf)
		}
	}
	if !u.DiskKnown {
		if text, err := small(dir+"io", buf); err == nil {
			var ok bool
			if u.DiskRead, ok = value(text, "read_bytes"); ok {
				u.DiskWrite, u.DiskKnown = value(text, "write_bytes")
			}
		}
	}
	for _, tap := range taps {
		in, e1 := r.counter(tap, "tx_bytes", buf) // what the node sends by a tap the guest gets
		out, e2 := r.counter(tap, "rx_bytes", buf)
		if e1 == nil && e2 == nil {
			u.NetIn, u.NetOut, u.NetKnown = u.NetIn+in, u.NetOut+out, true
		}
	}
	return u, nil
}

// group takes disk bytes of the guest's own unit: those of the process are for
// its user and for who may trace it. Memory is the process's in any case, since a
// cgroup's holds the page cache of the guest's disks too.
func (r Reader) group(path string, u *Use, buf []byte) {
	if text, err := small(filepath.Join(r.Root, "/sys/fs/cgroup", path, "io.stat"), buf); err == nil {
		u.DiskRead, u.DiskWrite = ioStat(text)
		u.DiskKnown = true
	}
}

func (r Reader) counter(tap, name string, buf []byte) (uint64, error) {
	if tap == "" || tap != filepath.Base(tap) || tap[0] == '.' {
		return 0, errForm
	}
	text, err := small(filepath.Join(r.Root, "/sys/class/net", tap, "statistics", name), buf)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// NodeMemory is the node's memory in bytes, 0 if it does not tell.
func NodeMemory() uint64 {
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}

// small reads a file into a buffer, as much as there is room. It goes past
// package os, which would ask the poller about each file.
func small(path string, buf []byte) ([]byte, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	for err == syscall.EINTR {
		fd, err = syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	n, err := syscall.Read(fd, buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(fd, buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
