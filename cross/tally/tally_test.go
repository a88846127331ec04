package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lines of `go test -json`, as Go 1.26 writes them.
const (
	start  = `{"Action":"start","Package":"github.com/secexec/secexec/xts"}` + "\n"
	run1   = `{"Action":"run","Package":"github.com/secexec/secexec/xts","Test":"TestA"}` + "\n"
	out1   = `{"Action":"output","Package":"github.com/secexec/secexec/xts","Test":"TestA","Output":"=== RUN   TestA\n"}` + "\n"
	say1   = `{"Action":"output","Package":"github.com/secexec/secexec/xts","Test":"TestA","Output":"    xts_test.go:7: because\n"}` + "\n"
	pass1  = `{"Action":"pass","Package":"github.com/secexec/secexec/xts","Test":"TestA","Elapsed":0.01}` + "\n"
	fail1  = `{"Action":"fail","Package":"github.com/secexec/secexec/xts","Test":"TestA","Elapsed":0.01}` + "\n"
	skip1  = `{"Action":"skip","Package":"github.com/secexec/secexec/xts","Test":"TestA","Elapsed":0}` + "\n"
	pkgOut = `{"Action":"output","Package":"github.com/secexec/secexec/xts","Output":"panic: outside any test\n"}` + "\n"
	pkgOK  = `{"Action":"pass","Package":"github.com/secexec/secexec/xts","Elapsed":0.2}` + "\n"
	pkgBad = `{"Action":"fail","Package":"github.com/secexec/secexec/xts","Elapsed":0.2}` + "\n"
	noTest = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}` + "\n" + `{"Action":"skip","Package":"p","Elapsed":0}` + "\n"
	build  = `{"ImportPath":"github.com/secexec/secexec/xts","Action":"build-output","Output":"xts.go:1:1: syntax error\n"}` + "\n" +
		`{"ImportPath":"github.com/secexec/secexec/xts","Action":"build-fail"}` + "\n" + start +
		`{"Action":"fail","Package":"github.com/secexec/secexec/xts","Elapsed":0,"FailedBuild":"github.com/secexec/secexec/xts"}` + "\n"
)

func TestReport(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in    string
		ok    bool
		want  []string // in the report
		close string
	}{
		"pass":             {start + run1 + out1 + say1 + pass1 + pkgOK, true, []string{"ok    xts ", "1 passed"}, "1 passed, 0 failed, 0 skipped"},
		"fail":             {start + run1 + out1 + say1 + fail1 + pkgBad, false, []string{"FAIL  xts TestA\n      |     xts_test.go:7: because\n", "failed:\n  xts TestA\n"}, "0 passed, 1 failed, 0 skipped"},
		"skip with reason": {noTest + start + run1 + out1 + say1 + skip1 + pkgOK, true, []string{"skip  xts TestA: xts_test.go:7: because\n"}, "0 passed, 0 failed, 1 skipped"},
		"skip without":     {start + run1 + out1 + skip1 + pkgOK, true, []string{"skip  xts TestA: no reason given\n"}, "0 passed, 0 failed, 1 skipped"},
		"package fails":    {start + run1 + pass1 + pkgOut + pkgBad, false, []string{"FAIL  xts\n      | panic: outside any test\n"}, "1 passed, 1 failed, 0 skipped"},
		"build fails":      {build, false, []string{"FAIL  xts build\n      | xts.go:1:1: syntax error\n", "stream: no test ran"}, "0 passed, 2 failed, 0 skipped"},
		"killed":           {start + run1 + out1 + say1, false, []string{"still running: TestA\n", "begun and never finished"}, "0 passed, 2 failed, 0 skipped"},
		"nothing":          {"", false, []string{"stream: no test ran"}, "0 passed, 1 failed, 0 skipped"},
		"only no tests":    {noTest, false, []string{"stream: no test ran"}, "0 passed, 1 failed, 0 skipped"},
		"go's own words":   {"no required module\n" + start + run1 + pass1 + pkgOK, true, []string{"no required module\n"}, "1 passed, 0 failed, 0 skipped"},
		"line too long":    {strings.Repeat("x", maxLine+1) + "\n", false, []string{"token too long"}, "0 passed, 2 failed, 0 skipped"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			ok, err := run(nil, strings.NewReader(tt.in), &out)
			if ok != tt.ok || err != nil {
				t.Errorf("run gave %v, %v, want %v", ok, err, tt.ok)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("report lacks %q:\n%s", want, out.String())
				}
			}
			if !strings.HasSuffix(out.String(), "\n"+tt.close+"\n") {
				t.Errorf("report does not close with %q:\n%s", tt.close, out.String())
			}
		})
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, empty := filepath.Join(dir, "good"), filepath.Join(dir, "empty")
	for file, text := range map[string]string{good: start + run1 + pass1 + pkgOK, empty: ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		args []string
		ok   bool
		want string
	}{
		"two":           {[]string{"native=" + good, "s390x=" + good}, true, "2 passed, 0 failed, 0 skipped\n"},
		"one ran none":  {[]string{"native=" + good, "s390x=" + empty}, false, "FAIL  s390x\n      | stream: no test ran"},
		"one not there": {[]string{"native=" + good, "s390x=" + filepath.Join(dir, "none")}, false, "no such file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			ok, err := run(tt.args, nil, &out)
			if ok != tt.ok || err != nil || !strings.Contains(out.String(), tt.want) {
				t.Errorf("run gave %v, %v and lacks %q:\n%s", ok, err, tt.want, out.String())
			}
		})
	}
	if _, err := run([]string{"nothing"}, nil, &strings.Builder{}); err == nil {
		t.Error("an argument without = was taken")
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	var o output
	for range 10 {
		o.add(strings.Repeat("x", maxOutput/4))
	}
	if o.Len() > maxOutput+100 || strings.Count(o.String(), "cut]") != 1 {
		t.Errorf("kept %d bytes, told %d times", o.Len(), strings.Count(o.String(), "cut]"))
	}
}
