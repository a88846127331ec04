package term

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestStepsWithoutTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := NewSteps(&out)
	s.Begin("encrypt root")
	s.Begin("seal image")
	s.End("21 MiB")
	s.End("never shown: no step runs")
	s.Begin("launch")
	s.Fail()
	want := regexp.MustCompile(`^✓ +\d+\.\d s  encrypt root\n✓ +\d+\.\d s  seal image  21 MiB\n✗ +\d+\.\d s  launch\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("got:\n%s", out.String())
	}
}

func TestTableKeepsTerminalSafe(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Table(&out, []string{"NAME", "STATE"}, [][]string{{"a", "ready"}, {"long-name", "\x1b[2Jfailed\n"}}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("got %q", out.String())
	}
	if !strings.HasPrefix(out.String(), "NAME       STATE\na          ready\n") {
		t.Errorf("columns: %q", out.String())
	}
}
