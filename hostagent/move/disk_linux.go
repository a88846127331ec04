package move

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Disk is a File on a disk. Its owner closes it.
type Disk struct {
	*os.File
	size int64
}

var _ File = (*Disk)(nil)

// OpenDisk opens a regular file of a guest's folder, no link that leads out of
// it. To write it is made if need be, and given this size.
func OpenDisk(dir, name string, write bool, size int64) (*Disk, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | os.O_CREATE
	}
	f, err := root.OpenFile(name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("open %s: it is no regular file", name)
	case write && size >= 0 && info.Size() != size:
		err = f.Truncate(size)
	default:
		size = info.Size()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Disk{f, size}, nil
}

// Size implements File.
func (d *Disk) Size() int64 { return d.size }

// Allocated is how many bytes of the disk the file takes.
func (d *Disk) Allocated() int64 {
	var st unix.Stat_t
	if unix.Fstat(int(d.Fd()), &st) != nil {
		return d.size
	}
	return st.Blocks * 512
}

// NextData implements File. A file system that knows no holes has data
// everywhere.
func (d *Disk) NextData(offset int64) (int64, error) {
	if offset >= d.size {
		return d.size, nil
	}
	at, err := unix.Seek(int(d.Fd()), offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return d.size, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return offset, nil
	case err != nil:
		return 0, fmt.Errorf("look for data: %w", err)
	}
	return min(at, d.size), nil
}

// Zero implements File.
func (d *Disk) Zero(offset, length int64) error {
	err := unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	for end := offset + length; offset < end; {
		n, err := d.WriteAt(zeros[:min(ChunkSize, end-offset)], offset)
		if err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}

// WriteAt implements File. What was written is on its way to the disk at once,
// so that Settle has little left to wait for.
func (d *Disk) WriteAt(b []byte, offset int64) (int, error) {
	n, err := d.File.WriteAt(b, offset)
	if err == nil {
		_ = unix.SyncFileRange(int(d.Fd()), offset, int64(n), unix.SYNC_FILE_RANGE_WRITE) // a hint
	}
	return n, err
}

// Settle makes the file's content last and lets go of what memory holds of it,
// so that the next read comes from the disk.
func (d *Disk) Settle() error {
	if err := d.Sync(); err != nil {
		return err
	}
	_ = unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED) // it is a hint
	return nil
}

// Free is how many bytes a folder's file system has left.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for free space: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
