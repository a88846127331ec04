package term

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// Bytes shows on a terminal how far a long work with bytes is; elsewhere it
// shows nothing. Its methods are for one goroutine.
type Bytes struct {
	w       io.Writer
	name    string
	total   int64 // 0: unknown
	started time.Time
	drawn   time.Time // last time, zero: never
}

// What is done sooner than this needs no line; between two lines so much passes.
const (
	bytesPatience = 500 * time.Millisecond
	bytesPause    = 100 * time.Millisecond
)

// NewBytes draws on w; a total of 0 says that it is unknown.
func NewBytes(w io.Writer, name string, total int64) *Bytes {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		w = nil
	}
	return &Bytes{w: w, name: name, total: total, started: time.Now()}
}

// Set says how many bytes are done.
func (b *Bytes) Set(done int64) {
	now := time.Now()
	if b.w == nil || now.Sub(b.started) < bytesPatience || now.Sub(b.drawn) < bytesPause {
		return
	}
	b.drawn = now
	fmt.Fprint(b.w, "\r\x1b[K"+b.line(done, now))
}

func (b *Bytes) line(done int64, now time.Time) string {
	passed := now.Sub(b.started)
	return fmt.Sprintf("… %6.1f s  %s  %s", passed.Seconds(), b.name, Rate(done, b.total, passed))
}

// Rate says how many bytes are done after a time, how fast, and how long the
// rest takes; a total of 0 says that it is unknown.
func Rate(done, total int64, passed time.Duration) string {
	rate := float64(done) / passed.Seconds()
	text := fmt.Sprintf("%d MiB", done>>20)
	if total > 0 {
		text += fmt.Sprintf(" of %d MiB, %d%%", total>>20, min(100, 100*done/total))
	}
	text += fmt.Sprintf("  %.0f MiB/s", rate/(1<<20))
	if left := total - done; left > 0 && rate > 0 {
		text += fmt.Sprintf("  %.0f s left", float64(left)/rate)
	}
	return text
}

// End takes the line away.
func (b *Bytes) End() {
	if !b.drawn.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
