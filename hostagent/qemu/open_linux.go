package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// backlog is how many clients may wait at a socket: one is served at a time.
const backlog = 4

// Open opens all that the configuration names by path, so that QEMU opens nothing
// of it by itself: [Args] names descriptors afterwards. The files are a process's
// descriptors from FirstFD on, in this order; the caller closes its own as soon as
// the process has them. Sockets are bound and listen; the memory file is made.
//
// Disks are looked at as they were opened ([Disk.CheckImage]): what a path leads
// to may have changed since. The queues of tap interfaces come next, those too that
// other programs hand over (ctx bounds the wait for them), the vsock device last; an
// error closes that, too.
//
// Each call opens anew: an image's lock belongs to the opening, not to the
// process.
func Open(ctx context.Context, c *Config) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			Close(files)
			if c.Vhost != nil {
				c.Vhost.Close()
			}
			files = nil
		}
	}()
	if err := c.Check(); err != nil {
		return nil, err
	}
	disk := c.OpenDisk
	if disk == nil {
		disk = openDisk
	}
	list := c.files()
	for _, h := range list {
		f, err := h.open(disk)
		if err != nil {
			return files, fmt.Errorf("open %s for QEMU: %w", h.path, err)
		}
		files = append(files, f)
		if h.disk != nil {
			if err := h.disk.CheckImage(f); err != nil {
				return files, err
			}
		}
	}
	taps, err := openNets(ctx, c, FirstFD+len(files))
	if err != nil {
		return files, err
	}
	c.number(list)
	files = append(files, taps...)
	if c.Vhost != nil {
		c.vhostFD = FirstFD + len(files)
		files = append(files, c.Vhost)
	}
	return files, nil
}

// Close closes the files of Open.
func Close(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (h handed) open(disk func(path string, flags int) (*os.File, error)) (*os.File, error) {
	switch h.use {
	case listenOn:
		return listenAt(h.path)
	case appendTo:
		return os.OpenFile(h.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	case reopen:
		return openAgain(h.path)
	case memoryIn:
		return makeMemory(h.path, h.size)
	case readFrom:
		return disk(h.path, unix.O_RDONLY)
	}
	return disk(h.path, unix.O_RDWR)
}

func listenAt(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openAgain opens a file that QEMU opens again as another user: all may read it,
// whom its folder lets near. An SE image is ciphertext.
func openAgain(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o444 != 0o444 {
		err = f.Chmod(info.Mode().Perm() | 0o444)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// makeMemory makes the file that guest memory lies in, open to all whom its
// folder lets near.
func makeMemory(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o666), f.Truncate(size)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openDisk opens an image or a block device; anything else, such as a pipe, would
// block or mean something else to each reader.
func openDisk(path string, how int) (*os.File, error) {
	fd, err := unix.Open(path, how|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &st), unix.SetNonblock(fd, false))
	if kind := st.Mode & unix.S_IFMT; err == nil && kind != unix.S_IFREG && kind != unix.S_IFBLK {
		err = errors.New("it is neither a file nor a block device")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
