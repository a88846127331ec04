package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroups        = "/sys/fs/cgroup"
	workloadCgroup = "workload"
)

// cgroup is the workload's: all that the program starts is in it, whatever it
// does. It is used by descriptors, since /sys/fs/cgroup becomes read-only.
type cgroup struct {
	parent int
	dir    int // -1: none
}

func openCgroup() (*cgroup, error) {
	parent, err := unix.Open(cgroups, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroups: %w", err)
	}
	return &cgroup{parent, -1}, nil
}

// renew makes a new one in the place of the one before, for each start: Linux
// 6.14 and later kill at once what is cloned into a cgroup that was killed
// before.
func (c *cgroup) renew() error {
	c.remove()
	if err := unix.Mkdirat(c.parent, workloadCgroup, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := unix.Openat(c.parent, workloadCgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	c.dir = dir
	return nil
}

func (c *cgroup) remove() {
	if c.dir >= 0 {
		unix.Close(c.dir)
		c.dir = -1
	}
	_ = unix.Unlinkat(c.parent, workloadCgroup, unix.AT_REMOVEDIR)
}

// kill kills all that is in it.
func (c *cgroup) kill() {
	fd, err := unix.Openat(c.dir, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte("1"))
		unix.Close(fd)
	}
	if err == nil {
		return
	}
	// A kernel before 5.14. What forks meanwhile is there the next time.
	for _, pid := range bytes.Fields(c.read("cgroup.procs")) {
		if n, err := strconv.Atoi(string(pid)); err == nil && n > 1 {
			_ = unix.Kill(n, unix.SIGKILL)
		}
	}
}

// empty kills what is in it until nothing is, at most until the time is up, and
// calls reap meanwhile.
func (c *cgroup) empty(patience time.Duration, reap func()) error {
	for begun := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		reap()
		if bytes.Contains(c.read("cgroup.events"), []byte("populated 0")) {
			return nil
		}
		if time.Since(begun) > patience {
			return errors.New("processes survive a kill")
		}
		c.kill()
	}
}

// read reads a file of the cgroup, as much as a page or so.
func (c *cgroup) read(name string) []byte {
	fd, err := unix.Openat(c.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := make([]byte, 16<<10)
	n, _ := unix.Read(fd, b)
	return b[:max(n, 0)]
}
