package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var option = regexp.MustCompile("`(-{1,2}[a-zA-Z][a-z-]*)")

// Who comes from pvimg finds each option that the guide names.
func TestGuideFromPvimg(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/from-pvimg.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, cmd := range map[string]*cobra.Command{"create": newImageCreate(), "info": newImageInfo(), "test": newImageTest(), "pvverify": newHostkeyVerify()} {
		_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
		if !ok {
			t.Fatalf("no section %s", heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		cmd.InitDefaultHelpFlag()
		found := 0
		for _, row := range strings.Split(section, "\n") {
			cells := strings.Split(row, "|")
			if len(cells) < 4 || strings.TrimSpace(cells[2]) == "-" || strings.HasPrefix(cells[2], " `secexec") {
				continue
			}
			for _, m := range option.FindAllStringSubmatch(cells[1]+cells[2], -1) {
				found++
				name := strings.TrimLeft(m[1], "-")
				if flags := cmd.Flags(); flags.Lookup(name) == nil && (len(name) != 1 || flags.ShorthandLookup(name) == nil) {
					t.Errorf("image %s has no %s", heading, m[1])
				}
			}
		}
		if found < 8 {
			t.Errorf("%d options of image %s in the guide", found, heading)
		}
	}
}
