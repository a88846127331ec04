package node

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// step is a command of the page and what the page says that it prints. A line …
// stands for any lines, and … in a line for any text.
type step struct {
	owner   bool
	command string
	want    []string
}

// transcript reads a page's console blocks.
func transcript(page string) []step {
	var steps []step
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		node, isNode := strings.CutPrefix(line, "node# ")
		owner, isOwner := strings.CutPrefix(line, "owner$ ")
		switch {
		case !inside:
			inside = line == "```console"
		case line == "```":
			inside = false
		case isNode:
			steps = append(steps, step{command: node})
		case isOwner:
			steps = append(steps, step{command: owner, owner: true})
		default:
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	return steps
}

// pattern is what a step's output must match.
func (s step) pattern() *regexp.Regexp {
	var b strings.Builder
	for _, line := range s.want {
		if line == "…" {
			b.WriteString(`(?:.*\n)*`)
			continue
		}
		// Columns are padded to the widest cell, so blanks stand for blanks.
		quoted := regexp.QuoteMeta(strings.Join(strings.Fields(line), " "))
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(quoted, "…", ".*"), " ", " *") + " *\n")
	}
	return regexp.MustCompile(`\A(?:` + b.String() + `)\z`)
}

// A provider who has a fresh node and docs/operations.md runs a guest.
func TestOperationsPage(t *testing.T) {
	t.Parallel()
	long(t)
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := transcript(string(page))
	if len(steps) < 15 {
		t.Fatalf("%d commands on the page", len(steps))
	}
	n := start(t)
	debs, err := lab.debs(older)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range debs {
		n.verb("copy", path, "/root/")
	}
	n.verb("copy", filepath.Join(lab.cache, "kernel"), "/owner/kernel")
	n.verb("copy", filepath.Join(lab.cache, "roots/tiny.tar"), "/owner/")
	for _, s := range steps {
		dir := "/root"
		if s.owner {
			dir = "/owner"
			n.sh("cp /etc/secexec/emulated-host/host.crt /owner/")
		}
		out, err := n.try(fmt.Sprintf("cd %s; export DEBIAN_FRONTEND=noninteractive; %s", dir, s.command))
		if out != "" {
			out += "\n"
		}
		t.Logf("# %s\n%s", s.command, out)
		if want := s.pattern(); !want.MatchString(out) {
			t.Fatalf("%s\nprints (%v)\n%s\nand not\n%s", s.command, err, out, strings.Join(s.want, "\n"))
		}
		if says := strings.Join(s.want, "\n"); err != nil && !strings.Contains(says, "problem: ") && !strings.Contains(s.command, "is-active") {
			t.Fatalf("%s: %v\n%s", s.command, err, out)
		}
		if s.owner {
			n.sh("cp -r /owner/hello /srv/")
		}
	}
}

func TestTranscript(t *testing.T) {
	t.Parallel()
	steps := transcript("x\n```console\nnode# a b\none … two\n…\nlast\nowner$ c\n```\nnode# no\n")
	if len(steps) != 2 || steps[0].command != "a b" || len(steps[0].want) != 3 || !steps[1].owner {
		t.Fatalf("%+v", steps)
	}
	for text, want := range map[string]bool{
		"one and two\nlast\n": true, "one   1  two  \nx\ny\nlast\n": true, "one two\n": false, "two\nlast\n": false, "one two\nlast\nmore\n": false,
	} {
		if got := steps[0].pattern().MatchString(text); got != want {
			t.Errorf("%q matches: %v", text, got)
		}
	}
	if !steps[1].pattern().MatchString("") || steps[1].pattern().MatchString("x\n") {
		t.Error("a command that prints nothing")
	}
}
