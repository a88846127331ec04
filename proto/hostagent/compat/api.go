package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// API is what clients rely on: one fact for each field, enum value and call.
//
//	secexec.hostagent.v1.Guest 3            string state
//	secexec.hostagent.v1.Hostagent.Events   EventsRequest, stream Event
type API map[string]string

// Describe collects the facts of files.
func Describe(files ...protoreflect.FileDescriptor) API {
	api := make(API)
	for _, f := range files {
		for i := range f.Services().Len() {
			for j, s := 0, f.Services().Get(i); j < s.Methods().Len(); j++ {
				m := s.Methods().Get(j)
				api[string(m.FullName())] = stream(m.IsStreamingClient()) + string(m.Input().FullName()) + ", " + stream(m.IsStreamingServer()) + string(m.Output().FullName())
			}
		}
		api.enums(f.Enums())
		api.messages(f.Messages())
	}
	return api
}

func stream(is bool) string {
	if is {
		return "stream "
	}
	return ""
}

func (api API) messages(all protoreflect.MessageDescriptors) {
	for i := range all.Len() {
		m := all.Get(i)
		api[string(m.FullName())] = "message" // one without fields too
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			words := []string{f.Kind().String(), string(f.Name())}
			switch {
			case f.IsMap():
				words[0] = fmt.Sprintf("map %s to %s", f.MapKey().Kind(), typeOf(f.MapValue()))
			case f.IsList():
				words[0] = "repeated " + typeOf(f)
			case f.HasOptionalKeyword():
				words[0] = "optional " + typeOf(f)
			default:
				words[0] = typeOf(f)
			}
			if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
				words = append(words, "in", string(o.Name()))
			}
			api[fmt.Sprintf("%s %d", m.FullName(), f.Number())] = strings.Join(words, " ")
		}
		api.enums(m.Enums())
		api.messages(m.Messages())
	}
}

func (api API) enums(all protoreflect.EnumDescriptors) {
	for i := range all.Len() {
		for j, e := 0, all.Get(i); j < e.Values().Len(); j++ {
			v := e.Values().Get(j)
			api[fmt.Sprintf("%s %d", e.FullName(), v.Number())] = string(v.Name())
		}
	}
}

func typeOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

// Breaks tells what of a released API another one lacks or has changed. What is
// new breaks nobody.
func (api API) Breaks(now API) (out []string) {
	for _, key := range slices.Sorted(maps.Keys(api)) {
		switch is, there := now[key]; {
		case !there:
			out = append(out, fmt.Sprintf("%s (%s) is gone", key, api[key]))
		case is != api[key]:
			out = append(out, fmt.Sprintf("%s was %s, is %s", key, api[key], is))
		}
	}
	return out
}

// Marshal writes the facts in order, a line each.
func (api API) Marshal() []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(api)) {
		fmt.Fprintf(&b, "%s\t%s\n", key, api[key])
	}
	return b.Bytes()
}

// Parse reads what Marshal wrote, with comments before it.
func Parse(text []byte) (API, error) {
	api := make(API)
	s := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; s.Scan(); n++ {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		key, fact, ok := strings.Cut(s.Text(), "\t")
		if !ok || api[key] != "" {
			return nil, fmt.Errorf("read line %d: %q is no fact, or there twice", n, s.Text())
		}
		api[key] = fact
	}
	return api, s.Err()
}
