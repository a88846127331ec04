package vectors

import (
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	v, err := parse([]byte("expect: ok\ncomment: a\nkey: 0a0b\nnone: \n\n\nbody\n"), "key", "none")
	if err != nil || v.Expect != "ok" || string(v.Hex(t, "key")) != "\x0a\x0b" || string(v.Body) != "\nbody\n" || v.Get("none") != "" {
		t.Errorf("%v: %+v", err, v)
	}
	for _, bad := range []string{
		"", "expect: ok\ncomment: a", "expect: ok\ncomment: a\nsurprise: 1\n\n", "expect: ok\nexpect: ok\ncomment: a\n\n", "expect\n\n",
		"comment: a\n\n", "expect: ok\n\n", "expect: ok\ncomment: a\ncompressed: zlib\n\nxx", "expect: ok\ncomment: a\ncompressed: lzma\n\nxx",
	} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q is a vector", bad)
		}
	}
}

// The page has a section for each format's folder.
func TestReadmeNamesAllFolders(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		found++
		if !strings.Contains(string(page), "\n## `"+entry.Name()+"`") {
			t.Errorf("README.md has no section for %s", entry.Name())
		}
	}
	if found < 4 {
		t.Errorf("%d formats", found)
	}
}
