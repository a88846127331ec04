package platform

import (
	"io/fs"
	"testing"
	"testing/fstest"
)

// uvTree is the ultravisor's folder with the figures of a real machine, those
// that the tests of s390-tools' pvinfo have too.
func uvTree() fstest.MapFS {
	m := seNode()
	for name, text := range map[string]string{
		"facilities": "ff1ffff000000000\n0\n0\n0\n", "feature_indications": "4000000000000000\n",
		"max_guests": "8388607\n", "max_cpus": "248\n", "max_address": "800000000000\n",
		"supp_se_hdr_ver": "8000000000000000\n", "supp_se_hdr_pcf": "300050e3\n",
	} {
		m[uvQuery+"/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestLimits(t *testing.T) {
	t.Parallel()
	full := Limits{MaxGuests: 8388607, MaxCPUs: 248, MaxAddress: 128 << 40, HeaderVersions: 1 << 63, HeaderFlags: 0x300050e3, Dump: true}
	without := func(change func(*Limits)) Limits { l := full; change(&l); return l }
	for _, c := range []struct {
		name, file, text string // text "-": the file is not there
		want             Limits
		fails            bool
	}{
		{name: "all", want: full},
		{name: "Linux before 6.0", file: "supp_se_hdr_pcf", text: "-", want: without(func(l *Limits) { l.HeaderFlags = 0 })},
		{name: "no facilities", file: "facilities", text: "-", want: without(func(l *Limits) { l.Dump = false })},
		{name: "no dump", file: "facilities", text: "ff1ffe0000000000\n0\n0\n0\n", want: without(func(l *Limits) { l.Dump = false })},
		{name: "one of the dump's calls missing", file: "facilities", text: "ff1ffeb000000000\n0\n0\n0\n", want: without(func(l *Limits) { l.Dump = false })},
		{name: "many guests", file: "max_guests", text: "18446744073709551615\n", want: without(func(l *Limits) { l.MaxGuests = 1 << 31 })},
		{name: "negative", file: "max_cpus", text: "-1\n", fails: true},
		{name: "hex where decimal is due", file: "max_cpus", text: "f8\n", fails: true},
		{name: "empty", file: "max_address", text: "", fails: true},
		{name: "no line end", file: "max_address", text: "1000", fails: true},
		{name: "five words", file: "facilities", text: "0\n0\n0\n0\n0\n", fails: true},
		{name: "too large", file: "max_address", text: "10000000000000000\n", fails: true},
	} {
		m := uvTree()
		switch {
		case c.text == "-":
			delete(m, uvQuery+"/"+c.file)
		case c.file != "":
			m[uvQuery+"/"+c.file] = &fstest.MapFile{Data: []byte(c.text)}
		}
		got, err := SE{Root: m}.Limits()
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	if got, err := (SE{Root: seNode()}).Limits(); got != (Limits{}) || err != nil {
		t.Errorf("Linux before 5.7's queries: %+v, %v", got, err)
	}
	m := uvTree()
	m[uvQuery+"/max_cpus"] = &fstest.MapFile{Mode: fs.ModeDir}
	if _, err := (SE{Root: m}).Limits(); err == nil {
		t.Error("a folder passes for an answer")
	}
}

func TestLimitsHas(t *testing.T) {
	t.Parallel()
	l := Limits{HeaderVersions: 1 << 63, HeaderFlags: 0xe0}
	for _, c := range []struct {
		l                  Limits
		version            uint32
		flags              uint64
		versionOK, flagsOK bool
	}{
		{l, 0x100, 0xe0, true, true}, {l, 0x100, 0, true, true}, {l, 0x200, 0xe0, false, true},
		{l, 0x100, 1 << 29, true, false}, {l, 0, 0, false, true}, {l, 0x4200, 0, false, true},
		{Limits{}, 0x900, 1 << 29, true, true},
		{Limits{HeaderVersions: 3 << 62}, 0x200, 0, true, true},
	} {
		if v, f := c.l.Has(c.version, c.flags); v != c.versionOK || f != c.flagsOK {
			t.Errorf("%+v has version 0x%x, flags 0x%x: %t, %t", c.l, c.version, c.flags, v, f)
		}
	}
}

func FuzzParseWords(f *testing.F) {
	f.Add("fffdf7ffff000000\n0\n0\n0\n", 16)
	f.Add("248\n", 10)
	f.Add("\n", 10)
	f.Fuzz(func(t *testing.T, text string, base int) {
		if base != 10 && base != 16 {
			return
		}
		if words, err := parseWords(text, base); (err == nil) != (len(words) > 0) || len(words) > 4 {
			t.Errorf("%d words, %v", len(words), err)
		}
	})
}
