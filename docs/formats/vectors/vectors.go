// Package vectors reads and writes the vector files beside it, for the tests
// of the rooms that implement a format. Their form is described in README.md.
package vectors

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxBody bounds what a compressed body unpacks to, in bytes.
const maxBody = 1 << 20

// Vector is one file: named values, and the bytes that they are about.
type Vector struct {
	Expect string // the verdict
	Body   []byte

	values map[string]string
}

// Get returns a value, "" where the vector has none.
func (v *Vector) Get(name string) string { return v.values[name] }

// Hex returns a value in hex as bytes.
func (v *Vector) Hex(t testing.TB, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.values[name])
	if err != nil {
		t.Fatalf("value %s: %v", name, err)
	}
	return b
}

// parse parses a file. names are the values that a format has beyond expect,
// comment and compressed; any other makes it invalid, so that no reader skips
// what it does not know.
func parse(b []byte, names ...string) (*Vector, error) {
	names = append([]string{"expect", "comment", "compressed"}, names...)
	v := &Vector{values: make(map[string]string)}
	for {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return nil, errors.New("no empty line")
		}
		if b = rest; len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), ": ")
		if _, twice := v.values[name]; !ok || twice || !slices.Contains(names, name) {
			return nil, fmt.Errorf("bad line %q", line)
		}
		v.values[name] = value
	}
	if v.Expect = v.values["expect"]; v.Expect == "" || v.values["comment"] == "" {
		return nil, errors.New("expect or comment is missing")
	}
	switch v.values["compressed"] {
	case "":
		v.Body = b
	case "zlib":
		z, err := zlib.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		if v.Body, err = io.ReadAll(io.LimitReader(z, maxBody+1)); err != nil {
			return nil, err
		}
		if len(v.Body) > maxBody {
			return nil, fmt.Errorf("more than %d bytes", maxBody)
		}
	default:
		return nil, fmt.Errorf("compressed by %q", v.values["compressed"])
	}
	return v, nil
}

// Walk calls each for every vector of a folder, in a test of its own. It fails
// where a folder holds something else, or has no vector for one of the verdicts.
func Walk(t *testing.T, dir string, verdicts, names []string, each func(*testing.T, *Vector)) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	missing := slices.Clone(verdicts)
	for _, entry := range entries {
		b, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil || filepath.Ext(entry.Name()) != ".vector" {
			t.Fatalf("%s is no vector: %v", entry.Name(), err)
		}
		v, err := parse(b, names...)
		if err != nil {
			t.Fatalf("%s: %v", entry.Name(), err)
		}
		if !slices.Contains(verdicts, v.Expect) {
			t.Fatalf("%s expects %q, which is no verdict", entry.Name(), v.Expect)
		}
		missing = slices.DeleteFunc(missing, func(s string) bool { return s == v.Expect })
		t.Run(strings.TrimSuffix(entry.Name(), ".vector"), func(t *testing.T) {
			t.Parallel()
			each(t, v)
		})
	}
	if len(missing) > 0 {
		t.Errorf("no vector for %v", missing)
	}
}

// Write writes a vector to dir/name.vector. header is its lines but for
// compressed, each with its line feed.
func Write(t testing.TB, dir, name, header string, body []byte, compress bool) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(header)
	if compress {
		b.WriteString("compressed: zlib\n\n")
		z, err := zlib.NewWriterLevel(&b, zlib.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = z.Write(body) // b takes all
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		b.WriteByte('\n')
		b.Write(body)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".vector"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
