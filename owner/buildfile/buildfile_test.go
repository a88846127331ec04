package buildfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestExample(t *testing.T) {
	t.Parallel()
	const path = "../../docs/examples/secexec.yaml"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(path, text)
	if err != nil {
		t.Fatal(err)
	}
	if f.Root.Size != 2<<30 || f.Kernel[0] != "../../docs/examples/boot/vmlinuz" || len(f.Hosts.Documents) != 2 || f.StopSignal != 38 {
		t.Errorf("got %+v", f)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, text, want string }{
		{"unknown field", "name: a\nkernal: k\n", `f.yaml:2:1: invalid build file: unknown field "kernal": did you mean "kernel"?`},
		{"unknown nested field", "root:\n  source: r\n  readonly: true\n", `f.yaml:3:3: invalid build file: unknown field "root.readonly": did you mean "root.read_only"?`},
		{"field at the wrong place", "read_only: true\n", `unknown field "read_only": did you mean "root.read_only"?`},
		{"flag's spelling", "guest-dir: g\n", `did you mean "guest_dir"?`},
		{"nothing near", "flavours: [a]\n", "see secexec build --print-schema"},
		{"unknown field of a volume", "volumes: [{mnt: /srv}]\n", `unknown field "volumes[0].mnt"`},
		{"volume's field at the top", "mount: /srv\n", `did you mean "volumes[].mount"?`},
		{"word of another kind", "module_signatures: cut\n", `"cut" is none of keep, strip`},
		{"list in a list of one", "kernel: [[a]]\n", "kernel[0] is sequence, wants text"},
		{"field twice", "name: a\nname: b\n", "f.yaml:2:1: invalid build file: mapping key \"name\" already defined at [1:1]"},
		{"field twice in flow form", "{name: a, name: b}\n", "already defined"},
		{"empty", "", "it says nothing"},
		{"comment alone", "# hello\n", "it says nothing"},
		{"list", "- a\n", "the file is sequence, wants fields"},
		{"text", "hello\n", "the file is string, wants fields"},
		{"no mapping", "root: here\n", "f.yaml:1:7: invalid build file: root is string, wants fields"},
		{"no list", "hosts:\n  documents: a.crt\n", "hosts.documents is string, wants a list"},
		{"empty list", "hosts:\n  documents: []\n", "empty list"},
		{"list in list", "hosts:\n  documents: [[a]]\n", "hosts.documents[0] is sequence, wants text"},
		{"number for text", "name: 12\n", "f.yaml:1:7: invalid build file: name is integer, wants text: put it in quotes"},
		{"bool for text", "name: true\n", "put it in quotes"},
		{"text for number", "memory_mib: lots\n", "memory_mib is string, wants a number"},
		{"float", "memory_mib: 1.5\n", "wants a number"},
		{"number with underscore", "memory_mib: 1_024\n", "memory_mib"},
		{"octal number", "memory_mib: 0o2000\n", "not in 64..4194304"},
		{"small number", "memory_mib: 63\n", "memory_mib: 63 is not in 64..4194304"},
		{"negative number", "stop_signal: -1\n", "stop_signal: -1 is not in 1..64"},
		{"huge number", "stop_signal: 99999999999999999999999\n", "stop_signal"},
		{"yes for true", "root: {read_only: yes}\n", "root.read_only is string, wants true or false"},
		{"no value", "name:\n", "name has no value"},
		{"null", "name: ~\n", "name has no value"},
		{"empty text", "name: ''\n", "name is empty: leave it out"},
		{"bad size", "root: {size: 2GB}\n", `root.size: "2GB" is no size such as 512M or 2G`},
		{"zero size", "root: {size: 0}\n", "no size"},
		{"anchor", "name: &a x\n", "anchors and aliases are not taken"},
		{"alias", "name: &a x\ninit: *a\n", "anchors and aliases are not taken"},
		{"merge", "root: {<<: {size: 1G}}\n", "is no field"},
		{"tag", "name: !!str 1\n", "tags are not taken"},
		{"second document", "name: a\n---\nname: b\n", "a second document"},
		{"syntax", "name: [a\n", "f.yaml:1:"},
		{"control character", "name: a\x00b\n", "control character U+0000"},
		{"several lines", "cmdline: |\n  a\n  b\n", "cmdline has several lines"},
		{"escaped control character", "cmdline: \"a\\0b\"\n", "cmdline holds the control character U+0000"},
		{"other encoding", "name: \xff\n", "no UTF-8"},
		{"large", strings.Repeat("#", MaxSize+1), "at most 65536"},
		{"deep", "root: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000), "wants fields"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := Parse("f.yaml", []byte(c.text))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v\nwants %s", f, err, c.want)
			}
		})
	}
	if _, err := Parse("f.yaml", append([]byte("name: a\n"), strings.Repeat("#", MaxSize-8)...)); err != nil {
		t.Errorf("file of the largest size: %v", err)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{"1": 1, "1536": 1536, "3K": 3 << 10, "512M": 512 << 20, "2G": 2 << 30, "1T": 1 << 40, "8388607T": 8388607 << 40} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
		if again, err := ParseSize(got.String()); err != nil || again != want {
			t.Errorf("%s prints as %s", text, got)
		}
	}
	for _, text := range []string{"", "0", "-1", "+1", "1k", "1.5G", "G", "8388608T", "1 G", "1GM"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// Schema and parser take and refuse the same files: tried on JSON, which both
// read, with values of all kinds at all fields.
func TestSchemaAgreesWithParser(t *testing.T) {
	t.Parallel()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	taken, refused := 0, 0
	for range 4000 {
		doc := randomObject(r, reflect.TypeFor[File]())
		if len(doc) == 0 {
			continue
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse("f.yaml", text)
		if invalid := schema.Validate(plain); (err == nil) != (invalid == nil) {
			t.Fatalf("%s: parser says %v, schema says %v", text, err, invalid)
		}
		if err == nil {
			taken++
		} else {
			refused++
		}
	}
	if taken < 200 || refused < 200 {
		t.Errorf("%d taken, %d refused: the test tells too little", taken, refused)
	}
}

// randomObject gives each field a value now and then, mostly a fitting one.
func randomObject(r *rand.Rand, t reflect.Type) map[string]any {
	doc := make(map[string]any)
	for i := range t.NumField() {
		if r.IntN(4) != 0 {
			continue
		}
		doc[yamlName(t.Field(i))] = randomValue(r, t.Field(i).Type, t.Field(i).Tag)
	}
	if r.IntN(25) == 0 {
		doc["strange"] = 1
	}
	return doc
}

func randomValue(r *rand.Rand, t reflect.Type, tag reflect.StructTag) any {
	if r.IntN(12) == 0 {
		odd := []any{nil, true, "text", "", 1.5, -7, []any{}, []any{"a"}, map[string]any{"x": 1}, "12M", 1 << 40}
		return odd[r.IntN(len(odd))]
	}
	switch {
	case t.Kind() == reflect.Struct:
		doc := randomObject(r, t)
		if len(doc) == 0 {
			doc[yamlName(t.Field(0))] = randomValue(r, t.Field(0).Type, t.Field(0).Tag)
		}
		return doc
	case t.Kind() == reflect.Slice:
		if tag.Get("one") != "" && r.IntN(2) == 0 {
			return randomValue(r, t.Elem(), "")
		}
		return []any{randomValue(r, t.Elem(), "")}
	case t.Kind() == reflect.Bool:
		return r.IntN(2) == 0
	case t == reflect.TypeFor[Size]():
		return []any{"2G", "17", 4096}[r.IntN(3)]
	case t.Kind() == reflect.Int:
		return 64
	}
	if tag.Get("enum") != "" {
		return []any{"keep", "strip", "other"}[r.IntN(3)]
	}
	return "some/path"
}

// What Parse takes, Marshal writes and Parse reads back as the same.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../docs/examples/secexec.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("/dir/f.yaml", text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		once, err := file.Marshal()
		if err != nil {
			t.Fatalf("parsed but does not marshal: %v", err)
		}
		again, err := Parse("/other/f.yaml", once)
		if err != nil {
			t.Fatalf("own text refused: %v\n%s", err, once)
		}
		if !reflect.DeepEqual(file, again) {
			t.Fatalf("%+v\nbecame %+v by\n%s", file, again, once)
		}
	})
}
