package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const workloadCgroup = "/sys/fs/cgroup/workload"

// cgroup is the workload's: all that the program starts is in it, whatever it
// does. It is used by its descriptor, since /sys/fs/cgroup becomes read-only.
type cgroup struct{ dir int }

func makeCgroup() (*cgroup, error) {
	if err := os.MkdirAll(workloadCgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := unix.Open(workloadCgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return &cgroup{dir}, nil
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
