// Command tally turns streams of `go test -json` into a report for people and
// for CI: a line for each package as it finishes, failures with their output,
// every skip with its reason, and in the end
//
//	N passed, N failed, N skipped
//
// Usage: tally [LABEL=FILE...]. Each file (a named pipe, usually) is read side
// by side with the others; without arguments standard input is read.
//
// It fails when a test, a build or a package does, when a package begins and
// never ends, and when a stream ran no test at all: a broken runner must not
// look like success.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

func main() {
	ok, err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, out io.Writer) (ok bool, err error) {
	t := newTally(out)
	if len(args) == 0 {
		t.begin("")
		return t.read("", stdin).finish(), nil
	}
	type stream struct{ label, file string }
	var streams []stream
	for _, arg := range args {
		label, file, found := strings.Cut(arg, "=")
		if !found || label == "" || file == "" {
			return false, fmt.Errorf("read argument %q: want LABEL=FILE", arg)
		}
		streams = append(streams, stream{label, file})
		t.begin(label)
	}
	var readers sync.WaitGroup
	for _, s := range streams {
		readers.Go(func() {
			f, err := os.Open(s.file) // waits for a pipe's writer
			if err != nil {
				t.broken(s.label, err.Error())
				return
			}
			defer f.Close()
			t.read(s.label, f)
		})
	}
	readers.Wait()
	return t.finish(), nil
}

// maxLine bounds a line of a stream, in bytes. go test splits longer output.
const maxLine = 1 << 20

// read takes a stream to its end.
func (t *tally) read(label string, r io.Reader) *tally {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		t.line(label, lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		t.broken(label, err.Error())
		_, _ = io.Copy(io.Discard, r) // lets the writer end
	}
	return t
}
