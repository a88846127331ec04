package platform

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memory is a guest's memory, mapped.
type memory struct{ bytes []byte }

// mapMemory maps a guest's memory file, which must have exactly this size.
func mapMemory(path string, size int64) (*memory, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("open memory file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("open memory file: %s is not a regular file", path)
	case info.Size() != size:
		// Beyond the file's end a mapping faults.
		return nil, fmt.Errorf("open memory file: %s has %d bytes, the guest %d", path, info.Size(), size)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory file: %w", err)
	}
	return &memory{b}, nil
}

// Close unmaps the memory; QEMU keeps it.
func (m *memory) Close() error { return unix.Munmap(m.bytes) }

// hideMemory keeps this process's memory out of core dumps and from other
// processes of its user.
func hideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
