package guest

import (
	"encoding/binary"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How often a log is looked at while it is written to. One that nobody writes to
// is not looked at.
const (
	lookEach     = time.Second
	lookFlooded  = 250 * time.Millisecond // one that was just rotated
	lookUnwarned = 10 * time.Second       // without inotify
)

// logs keeps the logs that QEMUs write within their bounds: consoles, and what
// QEMU says itself. One inotify instance tells of the first write to a log; then
// the log is left alone for a while, looked at, and watched again. So a log costs
// a watch in the kernel and, while it is written to, a timer; a guest that floods
// its console costs a rotation each lookFlooded.
type logs struct {
	log    *slog.Logger
	notify *os.File // nil: there is no inotify here

	mu      sync.Mutex
	watched map[int32]*watch // those that wait for a write
}

// watch is one log's.
type watch struct {
	logs  *logs
	path  string
	mu    sync.Mutex
	timer *time.Timer // until the next look
	wd    int32       // -1: none
	ended bool
}

func newLogs(log *slog.Logger) *logs {
	l := &logs{log: log, watched: make(map[int32]*watch)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.Error("watch logs", "error", os.NewSyscallError("inotify_init", err))
		return l
	}
	l.notify = os.NewFile(uintptr(fd), "inotify") // in the runtime's poller
	return l
}

// run hands on what the kernel tells, until close.
func (l *logs) run() {
	if l.notify == nil {
		return
	}
	buf := make([]byte, 64*unix.SizeofInotifyEvent) // files have no names in their events
	for {
		n, err := l.notify.Read(buf)
		if err != nil {
			return
		}
		// struct inotify_event, in the machine's byte order.
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd, mask, size := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(size)):]
			if mask&unix.IN_MODIFY == 0 {
				continue
			}
			l.mu.Lock()
			w := l.watched[wd]
			delete(l.watched, wd)
			l.mu.Unlock()
			if w != nil {
				w.after(lookEach)
			}
		}
	}
}

func (l *logs) close() {
	if l.notify != nil {
		l.notify.Close()
	}
}

// watch begins to keep a log within its bounds, which its owner ends.
func (l *logs) watch(path string) *watch {
	w := &watch{logs: l, path: path, wd: -1}
	w.look()
	return w
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.wd >= 0 {
		w.logs.forget(w)
	}
}

func (w *watch) after(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wd = -1; !w.ended { // the kernel told once, and forgot it
		w.timer = time.AfterFunc(d, w.look)
	}
}

// look rotates a log that is too long, and has the kernel watch one that is not.
func (w *watch) look() {
	long, err := rotate(w.path)
	if err != nil {
		w.logs.log.Warn("rotate log", "path", w.path, "error", err)
	}
	switch {
	case long:
		w.after(lookFlooded)
	case !w.logs.arm(w):
		w.after(lookUnwarned)
	}
}

// arm asks the kernel to tell of the next write.
func (l *logs) arm(w *watch) bool {
	if l.notify == nil {
		return false
	}
	raw, err := l.notify.SyscallConn()
	if err != nil {
		return false
	}
	armed := false
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return true
	}
	l.mu.Lock() // so that run finds what it is told of
	defer l.mu.Unlock()
	err = raw.Control(func(fd uintptr) {
		wd, err := unix.InotifyAddWatch(int(fd), w.path, unix.IN_MODIFY|unix.IN_ONESHOT)
		if armed = err == nil; armed {
			w.wd = int32(wd)
			l.watched[w.wd] = w
		}
	})
	return err == nil && armed
}

// forget is called with w's lock held.
func (l *logs) forget(w *watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watched[w.wd] != w {
		return
	}
	delete(l.watched, w.wd)
	raw, err := l.notify.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(w.wd)) })
}
