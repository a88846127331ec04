// Package term draws on the terminal: progress of steps, and tables. Where the
// output is no terminal it writes plain lines, the same each time.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// Steps shows the steps of a command as they pass, each with its time.
//
// On a terminal a running step shows with its seconds counting; elsewhere only
// finished steps show, a line each.
type Steps struct {
	w    io.Writer
	tty  bool
	note atomic.Value // string: what Note said of the running step

	mu      sync.Mutex
	name    string // running step, "" when none
	started time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// NewSteps draws on w.
func NewSteps(w io.Writer) *Steps {
	f, ok := w.(*os.File)
	return &Steps{w: w, tty: ok && term.IsTerminal(int(f.Fd()))}
}

// Begin starts a step and ends the one before, if any.
func (s *Steps) Begin(name string) {
	s.End("")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.started = name, time.Now()
	s.note.Store("")
	if !s.tty {
		return
	}
	s.stop, s.stopped = make(chan struct{}), make(chan struct{})
	go s.count(name, s.started, s.stop, s.stopped)
}

// Note shows on a terminal how far the running step is, behind its name.
func (s *Steps) Note(text string) { s.note.Store(text) }

// End ends the running step; detail says what came of it.
func (s *Steps) End(detail string) {
	s.finish("✓", detail)
}

// Fail ends the running step as failed.
func (s *Steps) Fail() {
	s.finish("✗", "")
}

func (s *Steps) finish(mark, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name == "" {
		return
	}
	if s.tty {
		close(s.stop)
		<-s.stopped // count never takes mu, so this wait is short
		fmt.Fprint(s.w, "\r\x1b[K")
	}
	line := fmt.Sprintf("%s %6.1f s  %s", mark, time.Since(s.started).Seconds(), s.name)
	if detail != "" {
		line += "  " + detail
	}
	fmt.Fprintln(s.w, strings.TrimRight(line, " "))
	s.name = ""
}

// count redraws the running step until stop closes. It is owned by Begin and
// ended by finish.
func (s *Steps) count(name string, started time.Time, stop <-chan struct{}, stopped chan<- struct{}) {
	defer close(stopped)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		note, _ := s.note.Load().(string)
		fmt.Fprintf(s.w, "\r\x1b[K… %6.1f s  %s", time.Since(started).Seconds(), strings.TrimSpace(name+"  "+note))
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}
