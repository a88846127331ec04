package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is a line of `go test -json` (see `go doc test2json` and `go help
// buildjson`).
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64 // seconds
	ImportPath  string  // of build-output and build-fail
	FailedBuild string  // ImportPath of the build that made a package fail
}

// maxOutput bounds what is kept of one test's or one build's output, in bytes.
const maxOutput = 256 << 10

// module is left out of package names.
const module = "github.com/secexec/secexec"

// tally counts the tests of all streams and writes the report.
type tally struct {
	mu      sync.Mutex
	out     io.Writer
	streams map[string]*stream
	passed  int
	failed  []string // what failed, for the list at the end
	skipped int
	start   time.Time
}

// stream is one run of go test.
type stream struct {
	tests    int                 // finished ones
	packages map[string]*pkg     // begun and not finished
	builds   map[string]*output  // output of compilers, by import path
	shown    map[string]struct{} // builds whose output was shown
}

// pkg is a package whose tests are running.
type pkg struct {
	output                  output             // of no test in particular
	tests                   map[string]*output // of tests that run
	passed, failed, skipped int
	cached                  bool
}

// output keeps the first maxOutput bytes.
type output struct {
	strings.Builder
	cut bool
}

func (o *output) add(s string) {
	if o.Len()+len(s) > maxOutput {
		if !o.cut {
			o.WriteString("[more output cut]\n")
		}
		o.cut = true
		return
	}
	o.WriteString(s)
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, streams: make(map[string]*stream), start: time.Now()}
}

// begin announces a stream, which must then show at least one test.
func (t *tally) begin(label string) {
	t.streams[label] = &stream{packages: make(map[string]*pkg), builds: make(map[string]*output), shown: make(map[string]struct{})}
}

// broken counts a stream that can't be read as a failure.
func (t *tally) broken(label, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail(name(label, "", ""), "stream: "+why+"\n")
}

// line takes one line of a stream.
func (t *tally) line(label string, line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprintf(t.out, "%s\n", line) // go's own words, such as a package pattern's
		return
	}
	s := t.streams[label]
	switch {
	case e.Action == "build-output":
		build := s.builds[e.ImportPath]
		if build == nil {
			build = &output{}
			s.builds[e.ImportPath] = build
		}
		build.add(e.Output)
	case e.Package == "":
	case e.Test != "":
		t.test(label, s, e)
	default:
		t.pkg(label, s, e)
	}
}

func (s *stream) open(path string) *pkg {
	p := s.packages[path]
	if p == nil {
		p = &pkg{tests: make(map[string]*output)}
		s.packages[path] = p
	}
	return p
}

// test takes an event of a test.
func (t *tally) test(label string, s *stream, e event) {
	p := s.open(e.Package)
	o := p.tests[e.Test]
	if o == nil {
		o = &output{}
		p.tests[e.Test] = o
	}
	switch e.Action {
	case "output":
		if !frame(e.Output) {
			o.add(e.Output)
		}
		return
	case "pass":
		p.passed++
		t.passed++
	case "fail":
		p.failed++
		t.fail(name(label, e.Package, e.Test), o.String())
	case "skip":
		p.skipped++
		t.skipped++
		reason := strings.Join(strings.Fields(o.String()), " ")
		if reason == "" {
			reason = "no reason given"
		}
		fmt.Fprintf(t.out, "skip  %s: %s\n", name(label, e.Package, e.Test), reason)
	default:
		return
	}
	s.tests++
	delete(p.tests, e.Test)
}

// frame tells go test's own lines around a test from the test's output.
func frame(line string) bool {
	line = strings.TrimLeft(line, " ")
	for _, prefix := range []string{"=== ", "--- PASS", "--- FAIL", "--- SKIP"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// pkg takes an event of a package.
func (t *tally) pkg(label string, s *stream, e event) {
	p := s.open(e.Package)
	switch e.Action {
	case "output":
		p.cached = p.cached || strings.HasSuffix(e.Output, "\t(cached)\n")
		p.output.add(e.Output)
		return
	case "skip": // no test files
		delete(s.packages, e.Package)
		return
	case "fail":
		switch {
		case e.FailedBuild != "":
			text := ""
			if _, shown := s.shown[e.FailedBuild]; !shown && s.builds[e.FailedBuild] != nil {
				text = s.builds[e.FailedBuild].String()
				s.shown[e.FailedBuild] = struct{}{}
			}
			t.fail(name(label, e.Package, "build"), text)
		case p.failed == 0:
			// A panic outside a test, a time-out, os.Exit in TestMain.
			t.fail(name(label, e.Package, ""), p.output.String())
		}
	case "pass":
	default:
		return
	}
	t.progress(label, p, e)
	delete(s.packages, e.Package)
}

// progress writes a finished package's line.
func (t *tally) progress(label string, p *pkg, e event) {
	if p.passed+p.failed+p.skipped == 0 && e.Action == "pass" {
		return
	}
	status := "ok  "
	if e.Action == "fail" {
		status = "FAIL"
	}
	took := fmt.Sprintf("%.1f s", e.Elapsed)
	if p.cached {
		took = "cached"
	}
	line := fmt.Sprintf("%s  %-44s %8s  %4d passed", status, name(label, e.Package, ""), took, p.passed)
	if p.failed > 0 {
		line += fmt.Sprintf(", %d failed", p.failed)
	}
	if p.skipped > 0 {
		line += fmt.Sprintf(", %d skipped", p.skipped)
	}
	fmt.Fprintln(t.out, line)
}

// fail counts a failure and shows its output.
func (t *tally) fail(what, text string) {
	t.failed = append(t.failed, what)
	fmt.Fprintf(t.out, "FAIL  %s\n", what)
	for line := range strings.Lines(text) {
		fmt.Fprintf(t.out, "      | %s\n", strings.TrimRight(line, "\n"))
	}
}

// finish writes the closing lines and reports whether all is well.
func (t *tally) finish() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, label := range sorted(t.streams) {
		s := t.streams[label]
		for _, path := range sorted(s.packages) {
			p := s.packages[path]
			text := p.output.String()
			for _, test := range sorted(p.tests) {
				text += "still running: " + test + "\n" + p.tests[test].String()
			}
			t.fail(name(label, path, ""), text+"begun and never finished\n")
		}
		if s.tests == 0 {
			t.fail(name(label, "", ""), "stream: no test ran\n")
		}
	}
	if len(t.failed) > 0 {
		fmt.Fprintln(t.out, "\nfailed:")
		for _, what := range t.failed {
			fmt.Fprintln(t.out, "  "+what)
		}
	}
	fmt.Fprintf(t.out, "\nall tests took %d s\n%d passed, %d failed, %d skipped\n", int(time.Since(t.start).Seconds()), t.passed, len(t.failed), t.skipped)
	return len(t.failed) == 0
}

// name joins what is there of "label package test".
func name(label, path, test string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	parts := slices.DeleteFunc([]string{label, path, test}, func(s string) bool { return s == "" })
	return strings.Join(parts, " ")
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
