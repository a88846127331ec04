package launch

import (
	"bytes"
	"slices"
	"testing"
)

const tail = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654321 0 0"

func TestParseStat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       stat
		dead, bad  bool
	}{
		{name: "plain", text: "7 (qemu) S " + tail + "\n", want: stat{'S', 987654321}},
		{name: "name with spaces and parentheses", text: "7 (a) R 1 1) (b) S " + tail, want: stat{'S', 987654321}},
		{name: "name with line end", text: "7 (a\n) S 2) Z " + tail, want: stat{'Z', 987654321}, dead: true},
		{name: "empty", text: "", bad: true},
		{name: "no name", text: "7 qemu S " + tail, bad: true},
		{name: "cut short", text: "7 (qemu) S 1 1 1 0", bad: true},
		{name: "ends after name", text: "7 (qemu)", bad: true},
		{name: "negative start", text: "7 (q) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 -1 0", bad: true},
		{name: "start over 64 bits", text: "7 (q) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 18446744073709551616 0", bad: true},
		{name: "too long", text: "7 (q) S " + tail + string(bytes.Repeat([]byte(" 0"), maxStat)), bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStat([]byte(c.text))
			if (err != nil) != c.bad || got != c.want || got.dead() != c.dead {
				t.Errorf("parseStat = %+v, %v; want %+v, error %v", got, err, c.want, c.bad)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (qemu) S " + tail))
	f.Add([]byte("7 (a) R 1 1) (b) S " + tail))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseStat(text); err != nil && s != (stat{}) {
			t.Errorf("error %v with value %+v", err, s)
		}
	})
}

func TestUUIDsOfArguments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cmdline string
		want    []string
	}{
		{"qemu\x00-uuid\x00A\x00", []string{"A"}},
		{"qemu\x00-name\x00x\x00-uuid\x00A\x00-uuid\x00B\x00", []string{"A", "B"}},
		{"-uuid\x00A\x00", nil}, // argv[0] is a name that the process chose
		{"qemu\x00-uuid\x00", nil},
		{"qemu\x00-uuid\x00-uuid\x00A\x00", []string{"-uuid"}},
		{"qemu -uuid A", nil},
		{"", nil},
	} {
		if got := uuids(splitArgs([]byte(c.cmdline))); !slices.Equal(got, c.want) {
			t.Errorf("uuids of %q = %q, want %q", c.cmdline, got, c.want)
		}
	}
}
