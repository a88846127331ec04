package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// takeOverTimeout bounds how long a unit's process waits for its handover. A
// hostagent that ends first closes its end, which is noticed only where the
// service manager keeps no copy of ours.
const takeOverTimeout = 30 * time.Second

// Exec is hostagent's hidden mode "exec", the first program of a guest's unit: it
// takes the descriptors and becomes the program that hostagent hands over through
// standard input, with no other descriptor open. It returns only if it fails.
// It runs as the unit's own user, confined already.
func Exec() error {
	h, fds, err := takeOver(0, takeOverTimeout)
	if err != nil {
		for _, fd := range fds[:min(1, len(fds))] {
			writeAll(fd, []byte(clean(err.Error())))
		}
		return err
	}
	err = become(h, fds)
	writeAll(fds[0], []byte(clean(err.Error())))
	return err
}

// takeOver receives one handover. The descriptors are valid, and the caller's,
// even with an error.
func takeOver(socket int, patience time.Duration) (*handover, []int, error) {
	tv := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, nil, fmt.Errorf("take over: standard input is no socket (hostagent starts this mode by itself): %w", err)
	}
	// One byte more than allowed shows a packet that is too long.
	text, rights := make([]byte, maxHandover+1), make([]byte, unix.CmsgSpace(4*(maxFiles+ownFiles)))
	n, rn, flags, _, err := ignoreEINTR(func() (int, int, int, unix.Sockaddr, error) {
		return unix.Recvmsg(socket, text, rights, unix.MSG_CMSG_CLOEXEC)
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("take over: %w", os.NewSyscallError("recvmsg", err))
	case n == 0 && rn == 0:
		return nil, nil, errors.New("take over: hostagent ended")
	}
	fds, err := parseRights(rights[:rn])
	if err != nil {
		return nil, fds, fmt.Errorf("take over: %w", err)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, fds, errors.New("take over: message was cut off")
	}
	h, err := parseHandover(text[:n])
	if err == nil && len(fds) != h.Files+ownFiles {
		err = fmt.Errorf("take over: %d descriptors came, %d were announced", len(fds), h.Files+ownFiles)
	}
	return h, fds, err
}

// become puts every descriptor into its place and executes the program. fds says
// afterwards where they are.
func become(h *handover, fds []int) error {
	// A descriptor of the Go runtime's own (its poller) may lie where a handed one
	// goes, and another thread use it meanwhile. So this thread, which will be the
	// program's, gets a table of its own.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("take the descriptors apart: %w", err)
	}
	// Out of the way first: a descriptor may lie in another one's place.
	above := 3 + h.Files
	for i := range fds {
		moved, err := unix.FcntlInt(uintptr(fds[i]), unix.F_DUPFD_CLOEXEC, above)
		if err != nil {
			return fmt.Errorf("move descriptor: %w", err)
		}
		fds[i] = moved
	}
	pipe, log, files := fds[0], fds[1], fds[ownFiles:]
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	for to, fd := range append([]int{null, log, log}, files...) {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return fmt.Errorf("place descriptor %d: %w", to, err)
		}
	}
	if err := unix.CloseRange(uint(above), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close what is left: %w", err)
	}
	if err := unix.Chdir(h.Dir); err != nil {
		return fmt.Errorf("change to %s: %w", h.Dir, err)
	}
	writeAll(pipe, report(os.Getpid(), os.Getenv("INVOCATION_ID")))
	// syscall's Exec also gives back the limit of open files that Go raised.
	err = syscall.Exec(h.Program, h.Argv, h.Env)
	return fmt.Errorf("execute %s: %w", h.Program, err)
}

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func ignoreEINTR(call func() (int, int, int, unix.Sockaddr, error)) (n, oobn, flags int, from unix.Sockaddr, err error) {
	for {
		n, oobn, flags, from, err = call()
		if err != unix.EINTR {
			return n, oobn, flags, from, err
		}
	}
}

// writeAll writes a few bytes to a pipe; whoever has gone need not know.
func writeAll(fd int, text []byte) {
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		text = text[n:]
	}
}
