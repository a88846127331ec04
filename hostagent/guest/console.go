package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// Bounds of a guest's logs. QEMU appends to them; a guest that floods its console
// fills two files of maxConsole, and what comes between two looks at it.
const (
	maxConsole  = 8 << 20
	maxRead     = 1 << 20
	defaultRead = 64 << 10
	tailBytes   = 2 << 10
	tailLines   = 8
)

// rotate moves a log that grew too long aside, and tells whether it was. QEMU has
// it open in append mode, so the file is copied and cut, not renamed.
func rotate(path string) (long bool, err error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= maxConsole {
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	src, err := os.Open(path)
	if err != nil {
		return true, err
	}
	defer src.Close()
	if _, err := src.Seek(-maxConsole, io.SeekEnd); err != nil { // its latest
		return true, err
	}
	dst, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return true, err
	}
	_, err = io.Copy(dst, io.LimitReader(src, maxConsole))
	return true, errors.Join(err, dst.Close(), os.Truncate(path, 0))
}

// ReadConsole reads from a console log. A negative offset counts from the end.
// next is the offset behind what was read.
func ReadConsole(path string, offset int64, limit int) (data []byte, next, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, 0, nil // never started
	}
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read console: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read console: %w", err)
	}
	size = info.Size()
	if offset < 0 {
		offset = max(0, size+offset)
	}
	if offset > size {
		offset = 0 // the log was rotated
	}
	if limit <= 0 {
		limit = defaultRead
	}
	data = make([]byte, min(int64(min(limit, maxRead)), size-offset))
	n, err := f.ReadAt(data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, 0, fmt.Errorf("read console: %w", err)
	}
	return data[:n], offset + int64(n), size, nil
}

// tail returns a log's last lines, fit for an error message: what a guest wrote
// can neither steer a terminal nor forge another line of a log.
func tail(path string) string {
	data, _, _, err := ReadConsole(path, -tailBytes, tailBytes)
	if err != nil {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\r':
			return -1
		case r < ' ' || r == utf8.RuneError || r >= 0x7f && r < 0xa0:
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(data), "?"))
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	return strings.Join(lines[max(0, len(lines)-tailLines):], " | ")
}

// withTail adds a log's last lines to a message.
func withTail(message, what, path string) string {
	if t := tail(path); t != "" {
		return message + "; " + what + ": " + t
	}
	return message
}
