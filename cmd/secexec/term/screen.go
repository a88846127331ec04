package term

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Screen is a whole terminal that is drawn over and over, with keys read as they
// are pressed. Its owner calls Close, which gives the terminal back as it was.
type Screen struct {
	in, out *os.File
	before  *term.State
	keys    chan byte
}

// IsTerminal tells whether w is one.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// NewScreen takes over the terminal. Without a terminal to read keys from it
// gives none.
func NewScreen(in io.Reader, out *os.File) (*Screen, error) {
	s := &Screen{out: out, keys: make(chan byte)}
	if f, ok := in.(*os.File); ok && IsTerminal(f) {
		before, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return nil, err
		}
		s.in, s.before = f, before
		go s.read() // ends with the program: a read of a terminal can't be broken off
	}
	_, err := io.WriteString(out, "\x1b[?1049h\x1b[?25l") // the other screen, no cursor
	return s, err
}

// read hands on keys.
func (s *Screen) read() {
	b := make([]byte, 16)
	for {
		n, err := s.in.Read(b)
		if err != nil {
			return
		}
		if n == 1 { // several bytes are a key that we know nothing of, such as an arrow
			s.keys <- b[0]
		}
	}
}

// Keys is where keys arrive; ^C is one of them, byte 3.
func (s *Screen) Keys() <-chan byte { return s.keys }

// Size is the terminal's, or 80 by 24 when it does not tell.
func (s *Screen) Size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}

// Draw shows lines from the top and nothing below. They have to fit.
func (s *Screen) Draw(lines []string) error {
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := io.WriteString(s.out, b.String())
	return err
}

// Close gives the terminal back.
func (s *Screen) Close() {
	_, _ = io.WriteString(s.out, "\x1b[?25h\x1b[?1049l")
	if s.before != nil {
		_ = term.Restore(int(s.in.Fd()), s.before)
	}
}
