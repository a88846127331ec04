package buildfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Schema returns the JSON schema (draft 2020-12) of secexec.yaml, for editors
// and for who writes the file by program.
func Schema() ([]byte, error) {
	s := object(reflect.TypeFor[File]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = Name
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write schema: %w", err)
	}
	return append(text, '\n'), nil
}

func object(t reflect.Type) map[string]any {
	properties := make(map[string]any)
	for i := range t.NumField() {
		f := t.Field(i)
		s := schemaOf(f.Type, f.Tag)
		s["description"] = f.Tag.Get("doc")
		properties[yamlName(f)] = s
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

func schemaOf(t reflect.Type, tag reflect.StructTag) map[string]any {
	switch {
	case t.Kind() == reflect.Struct:
		return object(t)
	case t.Kind() == reflect.Slice:
		list := map[string]any{"type": "array", "minItems": 1, "items": schemaOf(t.Elem(), "")}
		if tag.Get("one") != "" {
			return map[string]any{"anyOf": []any{list, schemaOf(t.Elem(), "")}}
		}
		return list
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t == reflect.TypeFor[Size]():
		return map[string]any{"type": []string{"string", "integer"}, "minimum": 1, "pattern": "^[0-9]+[KMGT]?$"}
	case t.Kind() == reflect.Int:
		lowest, highest := bounds(tag)
		return map[string]any{"type": "integer", "minimum": lowest, "maximum": highest}
	}
	if words := strings.Fields(tag.Get("enum")); len(words) > 0 {
		return map[string]any{"type": "string", "enum": words}
	}
	return map[string]any{"type": "string", "minLength": 1}
}
