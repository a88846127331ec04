package docs

import (
	"bufio"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/secexec/secexec/"

var quoted = regexp.MustCompile("`([^`]+)`")

// rooms reads the table of architecture.md: room to what it may import.
func rooms(t *testing.T) map[string][]string {
	t.Helper()
	f, err := os.Open("architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := make(map[string][]string)
	inTable := false
	for s := bufio.NewScanner(f); s.Scan(); {
		cells := strings.Split(s.Text(), "|")
		switch {
		case strings.HasPrefix(s.Text(), "| room |"):
			inTable = true
		case !strings.HasPrefix(s.Text(), "|"):
			inTable = false
		case inTable && len(cells) == 5 && !strings.HasPrefix(cells[1], " ---"):
			var may []string
			if list := strings.TrimSpace(cells[3]); list != "-" {
				for name := range strings.SplitSeq(list, ",") {
					may = append(may, strings.TrimSpace(name))
				}
			}
			for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
				table[name[1]] = may
			}
		}
	}
	return table
}

// roomOf finds the longest room that holds a folder.
func roomOf(table map[string][]string, dir string) string {
	for ; dir != "."; dir = filepath.Dir(dir) {
		if _, ok := table[dir]; ok {
			return dir
		}
	}
	return ""
}

func TestImportsFollowTheMap(t *testing.T) {
	t.Parallel()
	table := rooms(t)
	if len(table) < 10 {
		t.Fatalf("only %d rooms read from architecture.md", len(table))
	}
	for room, may := range table {
		for _, other := range may {
			if _, ok := table[other]; !ok {
				t.Errorf("%s may import %s, which is no room of the map", room, other)
			}
		}
	}
	checked := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 || d.Name() == "testdata" || path == "../build" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		dir, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		room := roomOf(table, dir)
		if room == "" {
			t.Errorf("%s lies in no room of architecture.md", path)
			return nil
		}
		src, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range src.Imports {
			target, _ := strconv.Unquote(spec.Path.Value)
			rel, ours := strings.CutPrefix(target, module)
			if !ours {
				continue
			}
			checked++
			to := roomOf(table, rel)
			// Test files may also use the PKI and the vectors that tests are for.
			testOnly := strings.HasSuffix(path, "_test.go") && (rel == "hostkey/hostkeytest" || rel == "docs/formats/vectors")
			if to != room && !slices.Contains(table[room], to) && !testOnly {
				t.Errorf("%s imports %s: architecture.md lets %s import %v", path, rel, room, table[room])
			}
			if room == "proto/readiness" && dir == "proto/readiness" && rel == "proto/readiness/report" && !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s imports %s: guestinit would grow by COSE and CBOR", path, rel)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Error("no import checked")
	}
}
