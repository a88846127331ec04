package docs

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	promise = regexp.MustCompile(`^\| ([0-9]+) \| (.+) \| (.+) \|$`)
	proof   = regexp.MustCompile("`([a-z0-9/]+) (Test[A-Za-z0-9]+)`")
)

// Each promise has a number of its own and names tests that are there.
func TestPromises(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"promises.md", "threat-model.md"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			checkPromises(t, page)
		})
	}
}

func checkPromises(t *testing.T, page string) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		m := promise.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		n++
		if m[1] != strconv.Itoa(n) {
			t.Errorf("promise %d has the number %s", n, m[1])
		}
		tests := proof.FindAllStringSubmatch(m[3], -1)
		if len(tests) == 0 {
			t.Errorf("promise %d names no test", n)
		}
		for _, test := range tests {
			if !declared(t, test[1], test[2]) {
				t.Errorf("promise %d: there is no %s in %s", n, test[2], test[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("%d promises read", n)
	}
}

// declared tells whether a folder's tests have one of this name.
func declared(t *testing.T, dir, name string) bool {
	t.Helper()
	entries, err := os.ReadDir("../" + dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile("../" + dir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+name+"(") {
			return true
		}
	}
	return false
}
