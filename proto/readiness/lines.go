package readiness

import "bytes"

// Lines cuts a byte stream into lines. It holds at most MaxLine bytes; a longer
// line is dropped up to its line feed and counted.
type Lines struct {
	Dropped uint64 // lines too long to be a message

	buf      []byte
	skipping bool
}

// Feed takes bytes as they come and calls do for each line they complete. The
// line has no line feed and is valid until do returns.
func (l *Lines) Feed(b []byte, do func(line string)) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			l.keep(b)
			return
		}
		l.keep(b[:i])
		if l.skipping {
			l.skipping = false
			l.Dropped++
		} else {
			do(string(l.buf))
		}
		l.buf = l.buf[:0]
		b = b[i+1:]
	}
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
