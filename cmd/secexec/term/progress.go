package term

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress shows on a terminal how many bytes of a transfer are done, and
// nothing elsewhere. Set may be called from several goroutines.
type Progress struct {
	w    io.Writer
	name string
	tty  bool

	mu    sync.Mutex
	drawn time.Time
}

// NewProgress draws on w.
func NewProgress(w io.Writer, name string) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, name: name, tty: ok && term.IsTerminal(int(f.Fd()))}
}

// Set draws how far it is, ten times a second at most.
func (p *Progress) Set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty || total <= 0 || time.Since(p.drawn) < 100*time.Millisecond {
		return
	}
	p.drawn = time.Now()
	fmt.Fprintf(p.w, "\r\x1b[K%s %3d %%  %d of %d MiB", p.name, 100*done/total, done>>20, total>>20)
}

// End clears the line.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty && !p.drawn.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
