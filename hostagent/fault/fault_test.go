package fault

import (
	"errors"
	"io"
	"os"
	"regexp"
	"testing"
)

func TestTableIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (H\d{3}) \| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1)
	documented := make(map[Code]entry)
	for _, row := range rows {
		documented[Code(row[1])] = entry{Meaning: row[2], Remedy: row[3]}
	}
	for code, e := range table {
		if d := documented[code]; d.Meaning != e.Meaning || d.Remedy != e.Remedy {
			t.Errorf("docs/errors.md says %q, %q for %s; the code %q, %q", d.Meaning, d.Remedy, code, e.Meaning, e.Remedy)
		}
	}
	if len(documented) != len(table) {
		t.Errorf("docs/errors.md has %d host codes, the code %d", len(documented), len(table))
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	err := error(New(Bundle, "open bundle b: %w", io.ErrUnexpectedEOF))
	if !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != "H201: open bundle b: unexpected EOF: transfer the bundle again" {
		t.Errorf("%v", err)
	}
	if As(io.EOF).Code != Internal || As(err).Code != Bundle {
		t.Error("As")
	}
	if Code("G108").Status() != Code("G999").Status() {
		t.Error("guest codes differ in status")
	}
}
