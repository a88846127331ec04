package platform

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/platforms.md explains each option of both argument vectors, and each
// device by name.
func TestDocsExplainEachArgument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/platforms.md")
	if err != nil {
		t.Skipf("%v: the test runs outside the source tree", err)
	}
	driver := regexp.MustCompile(`"driver":"([a-z0-9-]+)"`)
	for _, name := range []string{NameSE, NameEmulated} {
		argv, err := os.ReadFile("testdata/" + name + ".argv")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(argv)), "\n")[1:] {
			option, _, _ := strings.Cut(line, " ")
			if !strings.Contains(string(text), "`"+option) {
				t.Errorf("option %s of %s is not explained", option, name)
			}
			if m := driver.FindStringSubmatch(line); m != nil && option == "-device" && !strings.Contains(string(text), m[1]) {
				t.Errorf("device %s of %s is not explained", m[1], name)
			}
		}
	}
}
