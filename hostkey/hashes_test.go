package hostkey_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostkey"
)

func TestParseHashes(t *testing.T) {
	t.Parallel()
	one, two := strings.Repeat("0a", 32), strings.Repeat("b1", 32)
	colons := strings.TrimSuffix(strings.Repeat("0A:", 32), ":")
	for _, c := range []struct {
		what, text string
		want       []string // nil: refused
	}{
		{"as in sysfs", one + "\n" + two + "\n" + strings.Repeat("0", 64) + "\n", []string{one, two}},
		{"no line end", one, []string{one}},
		{"as sha256sum", one + "  host-a.crt\n" + two + " *host-b.crt\r\n", []string{one, two}},
		{"0x, capitals, colons", "0x" + two + "\n" + strings.ToUpper(two) + "\n" + colons + "\n", []string{two, one}},
		{"comments and blank lines", "# hosts\n\n" + one + "\n", []string{one}},
		{"comments alone", "# none\n", []string{}},
		{"zeros alone", strings.Repeat("0", 64), []string{}},
		{"empty", "", nil},
		{"text", "hello\n", nil},
		{"too short", one[2:] + "\n", nil},
		{"too long", one + "00\n", nil},
		{"no hex", "g" + one[1:] + "\n", nil},
		{"a colon too many", colons + ":", nil},
		{"bad after good", one + "\nrubbish\n", nil},
		{"too large", strings.Repeat("\n", hostkey.MaxSize+1), nil},
	} {
		got, err := hostkey.ParseHashes([]byte(c.text))
		if c.want == nil {
			if !errors.Is(err, hostkey.ErrHashes) {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %d hashes, %v", c.what, len(got), err)
			continue
		}
		for i, h := range got {
			if hex.EncodeToString(h[:]) != c.want[i] {
				t.Errorf("%s: %x, wants %s", c.what, h, c.want[i])
			}
		}
	}
}

func FuzzParseHashes(f *testing.F) {
	f.Add([]byte(strings.Repeat("0a", 32) + "  host.crt\n"))
	f.Add([]byte("0x" + strings.Repeat("B1", 32)))
	f.Add([]byte("# comment\n\n" + strings.TrimSuffix(strings.Repeat("0A:", 32), ":")))
	f.Fuzz(func(t *testing.T, text []byte) {
		hashes, err := hostkey.ParseHashes(text)
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, h := range hashes {
			out.WriteString(hex.EncodeToString(h[:]) + "\n")
		}
		if len(hashes) == 0 {
			return
		}
		again, err := hostkey.ParseHashes(out.Bytes())
		if err != nil || len(again) != len(hashes) {
			t.Errorf("written again: %d of %d hashes, %v", len(again), len(hashes), err)
		}
	})
}
