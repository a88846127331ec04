package form

import (
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	t.Parallel()
	many := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct {
		name      string
		form      Form
		good, bad []string
	}{
		{"name", Name, []string{"a", "0-", "web-1", many(63)}, []string{"", "-a", "A", "a_b", "a\n", many(64)}},
		{"request", Request, []string{"", "-", "aZ9", many(64)}, []string{"a b", "a\n", many(65)}},
		{"file", File, []string{"a", "root.img", "A_b-c", many(100)}, []string{"", ".", "..", ".a", "a/b", "a\x00", many(101)}},
		{"serial", Serial, []string{"-", "root", "a.b", many(20)}, []string{"", ".a", "a,b", many(21)}},
		{"UUID", UUID, []string{"6d1f3d90-8c86-4a2f-9d3c-000000000001"}, []string{"", "6D1f3d90-8c86-4a2f-9d3c-000000000001", "6d1f3d908c864a2f9d3c000000000001", "6d1f3d90-8c86-4a2f-9d3c-0000000000011"}},
		{"hex", Hex, []string{"", "0f", many(64)}, []string{"g", "0F", many(65)}},
		{"MAC", MAC, []string{"52:54:00:12:34:56"}, []string{"", "53:54:00:12:34:56", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56"}},
		{"tap", Tap, []string{"tap0", "_", many(15)}, []string{"", ".", "-t", "a/b", many(16)}},
		{"loadparm", Loadparm, []string{"", "PROMPT", "1.2", "ABCDEFGH"}, []string{"a", "ABCDEFGHI", "A B"}},
	} {
		for _, s := range c.good {
			if !c.form.MatchString(s) {
				t.Errorf("%q is no %s", s, c.name)
			}
		}
		for _, s := range c.bad {
			if c.form.MatchString(s) {
				t.Errorf("%q is a %s", s, c.name)
			}
		}
	}
}
