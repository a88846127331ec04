package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	requirement = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+\.\S+/\S+) v\S+( // indirect)?$`)
	moduleName  = regexp.MustCompile("`([a-z0-9.-]+\\.[a-z]+/[^`]+)`")
)

// Each module that our code imports has its reason on the page, and none is
// there that has gone.
func TestEveryModuleHasItsReason(t *testing.T) {
	t.Parallel()
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	direct := make(map[string]bool)
	for _, m := range requirement.FindAllStringSubmatch(read("../go.mod"), -1) {
		if m[2] == "" {
			direct[m[1]] = true
		}
	}
	if len(direct) < 10 {
		t.Fatalf("%d modules read from go.mod", len(direct))
	}
	_, table, _ := strings.Cut(read("dependencies.md"), "## Go modules")
	table, _, _ = strings.Cut(table, "\n## ")
	listed := make(map[string]bool)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		for _, m := range moduleName.FindAllStringSubmatch(cells[1], -1) {
			listed[m[1]] = true
			if !direct[m[1]] {
				t.Errorf("dependencies.md lists %s, which our code does not import", m[1])
			}
		}
	}
	for name := range direct {
		if !listed[name] {
			t.Errorf("dependencies.md gives no reason for %s", name)
		}
	}
}
