package buildfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Parse parses the text of the file at path and joins its paths to the path's
// folder. Parsing is strict: unknown and repeated fields, values of another
// type, anchors, aliases, tags, merge keys and a second document are refused,
// each by path, line and column.
func Parse(path string, text []byte) (*File, error) {
	p := fileParser{path: path}
	f := new(File)
	if err := p.parse(text, reflect.ValueOf(f).Elem()); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	eachPath(reflect.ValueOf(f).Elem(), func(q Path) Path {
		if filepath.IsAbs(string(q)) {
			return q
		}
		return Path(filepath.Join(dir, string(q)))
	})
	return f, nil
}

type fileParser struct{ path string }

func (p *fileParser) fail(at *token.Token, format string, args ...any) error {
	where := p.path
	if at != nil && at.Position != nil {
		where = fmt.Sprintf("%s:%d:%d", p.path, at.Position.Line, at.Position.Column)
	}
	return fmt.Errorf("%s: %w: %s", where, ErrInvalid, fmt.Sprintf(format, args...))
}

func (p *fileParser) parse(text []byte, into reflect.Value) error {
	if len(text) > MaxSize {
		return p.fail(nil, "%d bytes, at most %d", len(text), MaxSize)
	}
	if err := p.checkText(text); err != nil {
		return err
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			return p.fail(syntax.GetToken(), "%s", syntax.GetMessage())
		}
		return p.fail(nil, "%v", err)
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return p.fail(doc.Body.GetToken(), "a second document")
		}
		body = doc.Body
	}
	if body == nil {
		return p.fail(nil, "it says nothing")
	}
	return p.value(body, "", into, reflect.StructTag(""), 0)
}

// checkText refuses what no text editor writes, so that line and column are
// what the editor shows.
func (p *fileParser) checkText(text []byte) error {
	if !utf8.Valid(text) {
		return p.fail(nil, "it is no UTF-8 text")
	}
	for i, r := range string(text) {
		if r != '\n' && r != '\r' && r != '\t' && unicode.IsControl(r) || r == '\ufeff' {
			return p.fail(nil, "line %d holds the control character %U", 1+strings.Count(string(text[:i]), "\n"), r)
		}
	}
	return nil
}

// value parses a node into a field. name is the field's, with its parents'.
func (p *fileParser) value(n ast.Node, name string, into reflect.Value, tag reflect.StructTag, depth int) error {
	if depth > MaxDepth {
		return p.fail(n.GetToken(), "more than %d levels", MaxDepth)
	}
	switch into.Kind() {
	case reflect.Struct:
		return p.mapping(n, name, into, depth)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok && tag.Get("one") != "" {
			elem := reflect.New(into.Type().Elem()).Elem()
			if err := p.value(n, name, elem, "", depth+1); err != nil {
				return err
			}
			into.Set(reflect.Append(into, elem))
			return nil
		}
		if !ok {
			return p.mismatch(n, name, "a list")
		}
		if len(seq.Values) == 0 {
			return p.fail(n.GetToken(), "%s is an empty list: leave it out", name)
		}
		for i, item := range seq.Values {
			elem := reflect.New(into.Type().Elem()).Elem()
			if err := p.value(item, fmt.Sprintf("%s[%d]", name, i), elem, "", depth+1); err != nil {
				return err
			}
			into.Set(reflect.Append(into, elem))
		}
		return nil
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return p.mismatch(n, name, "true or false")
		}
		into.SetBool(b.Value)
		return nil
	case reflect.Int:
		return p.number(n, name, into, tag)
	}
	text, ok := scalar(n, into.Type() == reflect.TypeFor[Size]())
	if !ok {
		return p.mismatch(n, name, "text")
	}
	if into.Type() == reflect.TypeFor[Size]() {
		size, err := ParseSize(text)
		if err != nil {
			return p.fail(n.GetToken(), "%s: %v", name, err)
		}
		into.SetInt(int64(size))
		return nil
	}
	if text == "" {
		return p.fail(n.GetToken(), "%s is empty: leave it out", name)
	}
	for _, r := range text { // an escape or a block may have made one
		if r == '\n' {
			return p.fail(n.GetToken(), "%s has several lines: write it in one, or with >- in front", name)
		}
		if unicode.IsControl(r) || r == '\ufeff' {
			return p.fail(n.GetToken(), "%s holds the control character %U", name, r)
		}
	}
	if words := strings.Fields(tag.Get("enum")); len(words) > 0 && !slices.Contains(words, text) {
		return p.fail(n.GetToken(), "%s: %q is none of %s", name, text, strings.Join(words, ", "))
	}
	into.SetString(text)
	return nil
}

func (p *fileParser) mapping(n ast.Node, name string, into reflect.Value, depth int) error {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode: // a mapping of one pair
		pairs = []*ast.MappingValueNode{n}
	default:
		what := "fields"
		if name == "" {
			name = "the file"
		}
		return p.mismatch(n, name, what)
	}
	seen := make(map[string]bool)
	for _, pair := range pairs {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			return p.fail(pair.Key.GetToken(), "%q is no field", pair.Key.String())
		}
		full := key.Value
		if name != "" {
			full = name + "." + key.Value
		}
		field, known := fieldByName(into.Type(), key.Value)
		switch {
		case !known:
			return p.fail(key.GetToken(), "unknown field %q%s", full, suggest(key.Value))
		case seen[key.Value]:
			return p.fail(key.GetToken(), "field %q is given twice", full)
		}
		seen[key.Value] = true
		if err := p.value(pair.Value, full, into.FieldByIndex(field.Index), field.Tag, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *fileParser) number(n ast.Node, name string, into reflect.Value, tag reflect.StructTag) error {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return p.mismatch(n, name, "a number")
	}
	lowest, highest := bounds(tag)
	v, err := strconv.ParseInt(i.Token.Value, 10, 64) // no octal, no underscores
	if err != nil || v < lowest || v > highest {
		return p.fail(n.GetToken(), "%s: %s is not in %d..%d", name, i.Token.Value, lowest, highest)
	}
	into.SetInt(v)
	return nil
}

// bounds returns a number's least and largest value.
func bounds(tag reflect.StructTag) (lowest, highest int64) {
	lowest, _ = strconv.ParseInt(tag.Get("min"), 10, 64)
	highest, _ = strconv.ParseInt(tag.Get("max"), 10, 64)
	return lowest, highest
}

func (p *fileParser) mismatch(n ast.Node, name, want string) error {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return p.fail(n.GetToken(), "%s: anchors and aliases are not taken: write the value out", name)
	case *ast.TagNode:
		return p.fail(n.GetToken(), "%s: tags are not taken", name)
	case *ast.NullNode:
		return p.fail(n.GetToken(), "%s has no value", name)
	}
	hint := ""
	if want == "text" {
		hint = ": put it in quotes"
	}
	return p.fail(n.GetToken(), "%s is %s, wants %s%s", name, strings.ToLower(n.Type().String()), want, hint)
}

// scalar returns the text of a string, or of a whole number where one is fine.
func scalar(n ast.Node, numbers bool) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode:
		return n.Token.Value, numbers
	}
	return "", false
}

// fieldByName finds a field of a struct by its name in the file.
func fieldByName(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if yamlName(t.Field(i)) == name {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// suggest finds the known field nearest to a mistyped one, wherever it belongs.
func suggest(name string) string {
	best, at := 3, "" // a third difference is another word
	var walk func(t reflect.Type, parent string)
	walk = func(t reflect.Type, parent string) {
		for i := range t.NumField() {
			f := t.Field(i)
			if d := distance(name, yamlName(f)); d < best {
				best, at = d, parent+yamlName(f)
			}
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type, parent+yamlName(f)+".")
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				walk(f.Type.Elem(), parent+yamlName(f)+"[].")
			}
		}
	}
	walk(reflect.TypeFor[File](), "")
	if at == "" {
		return ": see secexec build --print-schema"
	}
	return fmt.Sprintf(": did you mean %q?", at)
}

// distance counts the insertions, deletions and replacements that make a of b
// (Levenshtein); names too long to be a mistyped field are far.
func distance(a, b string) int {
	a = strings.ReplaceAll(strings.ToLower(a), "-", "_")
	if len(a) > 32 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
