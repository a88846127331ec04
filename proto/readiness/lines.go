package readiness

import "bytes"

// Lines cuts a byte stream into lines. It holds at most MaxLine bytes; a longer
// line is dropped up to its line feed and counted.
type Lines struct {
	Dropped uint64 // lines too long to be a message

	buf      []byte
	skipping bool
}

// Next takes bytes up to the first line feed. It returns the line that this
// completes, without the line feed, and what is left of the bytes. ok is false
// where they complete none that may be a message.
func (l *Lines) Next(b []byte) (line string, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		l.keep(b)
		return "", nil, false
	}
	l.keep(b[:i])
	if ok = !l.skipping; ok {
		line = string(l.buf)
	} else {
		l.Dropped++
	}
	l.Reset()
	return line, b[i+1:], ok
}

// Reset forgets a line begun, as after a new connection.
func (l *Lines) Reset() { l.buf, l.skipping = l.buf[:0], false }

func (l *Lines) keep(b []byte) {
	if l.skipping || len(l.buf)+len(b) >= MaxLine {
		l.skipping = true
		l.buf = l.buf[:0]
		return
	}
	l.buf = append(l.buf, b...)
}
