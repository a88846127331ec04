package qemu

import (
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// writeWith writes a message, and with it a file's descriptor (SCM_RIGHTS).
func (m *Monitor) writeWith(text []byte, file *os.File) error {
	if file == nil {
		_, err := m.conn.Write(text)
		return err
	}
	conn, ok := m.conn.(*net.UnixConn)
	if !ok {
		return errors.New("send a descriptor: not a unix socket")
	}
	raw, err := file.SyscallConn() // Fd would change the file's mode
	if err != nil {
		return err
	}
	var n int
	var failure error
	err = raw.Control(func(fd uintptr) {
		n, _, failure = conn.WriteMsgUnix(text, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, failure); err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	return err
}
