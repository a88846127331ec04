package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The vectors of docs/formats: a header with what to expect, an empty line,
// bundle.json byte for byte.
func TestVectors(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../docs/formats/vectors/bundle/*")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d vectors, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			header, body, ok := strings.Cut(string(text), "\n\n")
			if !ok {
				t.Fatal("no header")
			}
			expect := ""
			for line := range strings.SplitSeq(header, "\n") {
				key, value, _ := strings.Cut(line, ": ")
				switch key {
				case "expect":
					expect = value
				case "comment":
				default:
					t.Fatalf("unknown header %q", line)
				}
			}
			_, err = ParseManifest([]byte(body))
			switch expect {
			case "ok":
				if err != nil {
					t.Error(err)
				}
			case "invalid":
				if !errors.Is(err, ErrManifest) {
					t.Errorf("got %v", err)
				}
			default:
				t.Fatalf("expects %q", expect)
			}
		})
	}
}
