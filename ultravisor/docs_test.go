package ultravisor

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// documented are the rows of docs/ultravisor.md's table of answers.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../docs/ultravisor.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| ") && strings.Contains(line, " 0x") {
			rows[strings.TrimSpace(line)] = true
		}
	}
	return rows
}

// row is how the table shows a refusal; where it names an address the table
// does not.
func row(r *Refusal) string {
	words := r.Words
	if r.Command == CommandUnpack {
		words = "a component lies outside of guest memory: give the guest more memory"
	}
	return fmt.Sprintf("| %d | 0x%04x | 0x%02x | %s |", r.Command, r.RC, r.RRC, words)
}

// Tests that provoke refusals look them up in the table; this one sees that the
// table promises nothing else.
func TestDocumentedRefusals(t *testing.T) {
	t.Parallel()
	rows := documented(t)
	for _, h := range headerErrors {
		r := row(refuse(CommandSetParameters, h.rc, h.rrc, h.words))
		if !rows[r] {
			t.Errorf("docs/ultravisor.md lacks %s", r)
		}
		delete(rows, r)
	}
	for _, r := range provoked {
		if !rows[r] {
			t.Errorf("docs/ultravisor.md lacks %s", r)
		}
		delete(rows, r)
	}
	for r := range rows {
		t.Errorf("docs/ultravisor.md has a row that no test provokes: %s", r)
	}
}

// provoked are the rows, other than those of headerErrors, that TestRefusals and
// TestSlots see.
var provoked = []string{
	"| 2 | 0x0106 | 0x30 | a plain-text control flag is not supported |",
	"| 2 | 0x0108 | 0x34 | the backup host key is not allowed |",
	"| 2 | 0x0109 | 0x00 | a secret control flag is not supported |",
	"| 3 | 0x0005 | 0x00 | a component lies outside of guest memory: give the guest more memory |",
	"| 4 | 0x0102 | 0x1a | the addresses of the image's pages were changed |",
	"| 4 | 0x0102 | 0x1b | the image's pages were changed |",
	"| 4 | 0x0102 | 0x1c | the tweaks of the image's pages were changed |",
	"| 4 | 0x0102 | 0x1d | the image has too few or too many pages |",
}

// known tells whether the table has a refusal that a test has provoked.
func known(t *testing.T, r *Refusal) {
	t.Helper()
	if r.Command != CommandNone && !documented(t)[row(r)] {
		t.Errorf("docs/ultravisor.md lacks %s", row(r))
	}
}
