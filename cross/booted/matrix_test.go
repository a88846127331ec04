package booted

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const matrixPage = "../../docs/attack-matrix.md"

// matrix compares the outcome of a matrix with its section of
// docs/attack-matrix.md, row by row, or rewrites that. A test that was filtered
// down to some cases has empty outcomes, which are passed over.
func matrix(t *testing.T, section string, rows [][2]string) {
	t.Helper()
	text, err := os.ReadFile(matrixPage)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+section+" -->\n", "<!-- end of "+section+" -->\n"
	before, rest, found := strings.Cut(string(text), begin)
	old, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no section between %q and %q", matrixPage, begin, end)
	}
	table := "| # | attack | outcome |\n| --- | --- | --- |\n"
	for i, r := range rows {
		line := fmt.Sprintf("| %d | %s | %s |\n", i+1, r[0], r[1])
		table += line
		if !*update && r[1] != "" && !strings.Contains(old, line) {
			t.Errorf("%s does not say under %s: %s", matrixPage, section, line)
		}
	}
	if *update {
		if err := os.WriteFile(matrixPage, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
