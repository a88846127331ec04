// Package wake does something once a descriptor becomes readable. One goroutine
// waits for all of them: a connection on which nobody speaks, or a process that
// runs, costs hostagent no stack.
package wake

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Call is what is to be done, once.
type Call struct {
	do  func()
	key int32
}

// Readable does something, in a goroutine of its own, once there is something to
// read or the other end is closed. It does nothing any more when the descriptor is
// closed: whoever closes it cancels the call.
func Readable(fd syscall.RawConn, do func()) (*Call, error) {
	w, err := waiter()
	if err != nil {
		return nil, err
	}
	c := w.add(do)
	var failure error
	err = fd.Control(func(fd uintptr) { failure = w.arm(int(fd), c.key) })
	if err = errors.Join(err, failure); err != nil {
		w.take(c.key, c)
		return nil, err
	}
	return c, nil
}

// Cancel tells whether the call was still to be done; it is not then.
func (c *Call) Cancel() bool {
	w, err := waiter()
	return err == nil && w.take(c.key, c) != nil
}

// waiter is the program's one, with its goroutine. Both stay as long as it runs.
var waiter = sync.OnceValues(func() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// So that os.NewFile hands it to the runtime's own poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &epoll{file: os.NewFile(uintptr(fd), "epoll"), calls: make(map[int32]*Call)}
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.file.Close()
		return nil, err
	}
	w.fd = fd
	go w.run(raw)
	return w, nil
})

// epoll waits for descriptors, each for one event (EPOLLONESHOT): one that a
// child still holds after its owner closed it is told once at most, with a key
// that nobody has any more.
type epoll struct {
	file *os.File
	fd   int

	mu    sync.Mutex
	calls map[int32]*Call
	last  int32
}

func (w *epoll) add(do func()) *Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.last++; w.calls[w.last] != nil; w.last++ {
	}
	c := &Call{do, w.last}
	w.calls[c.key] = c
	return c
}

// take is the call of a key, whose it is then; nil: it was taken before, or is not
// the one that is meant.
func (w *epoll) take(key int32, meant *Call) *Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls[key]
	if meant != nil && c != meant { // keys are used again
		return nil
	}
	delete(w.calls, key)
	return c
}

func (w *epoll) arm(fd int, key int32) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: key}
	err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &e)
	if errors.Is(err, unix.EEXIST) { // armed before
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_MOD, fd, &e)
	}
	return os.NewSyscallError("epoll_ctl", err)
}

func (w *epoll) run(raw syscall.RawConn) {
	var events [16]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if err != nil {
			return // never: nobody closes it
		}
		for _, e := range events[:n] {
			if c := w.take(e.Fd, nil); c != nil {
				go c.do()
			}
		}
	}
}
