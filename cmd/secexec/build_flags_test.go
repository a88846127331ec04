package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/owner/buildfile"
)

// Each field of the build file has a flag, and its row in the format's page.
func TestBuildFieldsHaveFlagsAndRows(t *testing.T) {
	t.Parallel()
	var b buildFlags
	cmd := new(cobra.Command)
	b.add(cmd)
	flags := make(map[string]string)
	for _, f := range b.fields {
		if cmd.Flags().Lookup(f.flag) == nil {
			t.Errorf("%s: no flag --%s", f.field, f.flag)
		}
		flags[f.field] = f.flag
	}
	page, err := os.ReadFile("../../docs/formats/secexec-yaml.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, parent string) {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			if typ.Field(i).Type.Kind() == reflect.Struct {
				walk(typ.Field(i).Type, parent+name+".")
				continue
			}
			flag, ok := flags[parent+name]
			if !ok {
				t.Errorf("field %s%s has no flag", parent, name)
			}
			if row := "| `" + parent + name + "` | `--" + flag + "` |"; !strings.Contains(string(page), row) {
				t.Errorf("docs/formats/secexec-yaml.md lacks %s", row)
			}
			delete(flags, parent+name)
		}
	}
	walk(reflect.TypeFor[buildfile.File](), "")
	for field, flag := range flags {
		t.Errorf("--%s sets %s, which is no field", flag, field)
	}
}
