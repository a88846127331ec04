package outfile

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// window is how many bytes are written between two nudges, and so about what
// Commit still has to wait for.
const window = 1 << 20

// ample is what a file may have of the page cache. Who makes a small file often
// reads it next. A large one fills the memory, and then its maker does the
// kernel's work of finding more.
const ample = 256 << 20

// WriteAt writes and has the kernel begin to bring what is written to the disk
// now and then, so that the flush of Commit finds most of it done. Nothing
// waits for that here, and file systems that can't do it ignore it. What is
// ample goes to the disk directly, where buffer and place are whole pages.
// Several may write at once.
func (f *File) WriteAt(b []byte, at int64) (int, error) {
	if f.written.Load() >= f.ample && aligned(b, at) {
		if direct := f.openDirect(); direct != nil {
			n, err := direct.WriteAt(b, at)
			if !errors.Is(err, unix.EINVAL) { // of blocks larger than a page
				return n, err
			}
		}
	}
	n, err := f.File.WriteAt(b, at)
	if written := f.written.Add(int64(n)); written/window != (written-int64(n))/window {
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

// openDirect opens the file once more, past the page cache; nil where the file
// system can't.
func (f *File) openDirect() *os.File {
	f.once.Do(func() { f.direct, _ = os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0) })
	return f.direct
}

func aligned(b []byte, at int64) bool {
	const page = 4096
	return len(b) > 0 && (int64(uintptr(unsafe.Pointer(&b[0])))|int64(len(b))|at)%page == 0
}
