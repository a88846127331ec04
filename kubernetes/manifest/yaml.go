package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// object is a mapping whose keys keep their order; list a sequence. Other values
// are strings, ints and bools.
type (
	object []field
	list   []any
	field  struct {
		key   string
		value any
	}
)

// set appends fields that say something: an empty string, object or list is what
// Kubernetes takes for absent anyway.
func (o *object) set(key string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case object:
		if len(v) == 0 {
			return
		}
	case list:
		if len(v) == 0 {
			return
		}
	}
	*o = append(*o, field{key, value})
}

// document writes an object as a YAML document in block style.
func document(b *bytes.Buffer, o object) {
	b.WriteString("---\n")
	write(b, o, 0)
}

// write writes a value's lines. The first one's indent is the caller's for an
// element of a list, which begins behind its dash.
func write(b *bytes.Buffer, value any, depth int) {
	indent := strings.Repeat(" ", depth)
	switch v := value.(type) {
	case object:
		for i, f := range v {
			if i > 0 || !inElement(b) {
				b.WriteString(indent)
			}
			b.WriteString(scalar(f.key) + ":")
			below(b, f.value, depth)
		}
	case list:
		for _, e := range v {
			b.WriteString(indent + "-")
			if o, ok := e.(object); ok {
				b.WriteByte(' ')
				write(b, o, depth+2)
			} else {
				below(b, e, depth)
			}
		}
	}
}

// inElement tells whether a dash and a blank were written last.
func inElement(b *bytes.Buffer) bool { return bytes.HasSuffix(b.Bytes(), []byte("- ")) }

// below writes what follows a key or a dash: a scalar on its line, or a
// collection beneath it. A list stands at its key's own indent, as kubectl
// writes it.
func below(b *bytes.Buffer, value any, depth int) {
	switch v := value.(type) {
	case object:
		b.WriteByte('\n')
		write(b, v, depth+2)
	case list:
		b.WriteByte('\n')
		write(b, v, depth)
	case string:
		b.WriteString(" " + scalar(v) + "\n")
	default:
		fmt.Fprintf(b, " %v\n", v)
	}
}

// plain is a text that is a string to every reader of YAML, 1.1 or 1.2, unless
// it is one of their words.
var (
	plain = compiled(`^([A-Za-z][A-Za-z0-9./@_-]*(:[A-Za-z0-9./@_-]+)*|[0-9]+Mi)$`)
	words = []string{"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
)

// scalar writes a string: plain, or quoted as Go quotes in ASCII, whose escapes
// of printable names YAML's double quotes know too.
func scalar(s string) string {
	if plain().MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	return strconv.QuoteToASCII(s)
}
