package outfile

import "golang.org/x/sys/unix"

// window is how many bytes are written between two nudges, and so about what
// Commit still has to wait for.
const window = 8 << 20

// WriteAt writes and has the kernel begin to bring what is written to the disk
// now and then, so that the flush of Commit finds most of it done. Nothing
// waits for that here, and file systems that can't do it ignore it. Several may
// write at once.
func (f *File) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	if fresh := f.fresh.Add(int64(n)); fresh >= window && f.fresh.CompareAndSwap(fresh, 0) {
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}
