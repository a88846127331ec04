package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// sample is a file with one of everything.
func sample() *descriptorpb.FileDescriptorProto {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{
			Name: &name, Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), JsonName: &name,
		}
		if of != "" {
			f.TypeName = proto.String(of)
		}
		return f
	}
	const text, number, message, enum = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_UINT32, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_ENUM
	list := field("many", 4, text, "")
	list.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	choice := field("either", 5, text, "")
	choice.OneofIndex = proto.Int32(0)
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String("sample.proto"), Package: proto.String("p"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("Ask"), Field: []*descriptorpb.FieldDescriptorProto{field("name", 1, text, ""), field("size", 2, number, ""), field("inner", 3, message, ".p.Inner"), list, choice, field("kind", 6, enum, ".p.Kind")}, OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("choice")}}},
			{Name: proto.String("Inner")},
			{Name: proto.String("Other")},
		},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("Kind"), Value: []*descriptorpb.EnumValueDescriptorProto{{Name: proto.String("NONE"), Number: proto.Int32(0)}, {Name: proto.String("SOME"), Number: proto.Int32(1)}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Get"), InputType: proto.String(".p.Ask"), OutputType: proto.String(".p.Inner")},
			{Name: proto.String("Watch"), InputType: proto.String(".p.Ask"), OutputType: proto.String(".p.Inner"), ServerStreaming: proto.Bool(true)},
		}}},
	}
}

func describe(t *testing.T, f *descriptorpb.FileDescriptorProto) API {
	t.Helper()
	d, err := protodesc.NewFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Describe(d)
}

func TestBreaks(t *testing.T) {
	t.Parallel()
	released := describe(t, sample())
	type file = descriptorpb.FileDescriptorProto
	ask := func(f *file) *descriptorpb.DescriptorProto { return f.MessageType[0] }
	for name, c := range map[string]struct {
		change func(*file)
		want   string // "": breaks nobody
	}{
		"nothing": {func(*file) {}, ""},
		"a new field": {func(f *file) {
			n := proto.Clone(ask(f).Field[0]).(*descriptorpb.FieldDescriptorProto)
			n.Name, n.JsonName, n.Number = proto.String("n"), proto.String("n"), proto.Int32(9)
			ask(f).Field = append(ask(f).Field, n)
		}, ""},
		"a new call": {func(f *file) {
			m := proto.Clone(f.Service[0].Method[0]).(*descriptorpb.MethodDescriptorProto)
			m.Name = proto.String("New")
			f.Service[0].Method = append(f.Service[0].Method, m)
		}, ""},
		"another order":    {func(f *file) { ask(f).Field[0], ask(f).Field[1] = ask(f).Field[1], ask(f).Field[0] }, ""},
		"field removed":    {func(f *file) { ask(f).Field = ask(f).Field[1:] }, "p.Ask 1 (string name) is gone"},
		"field renumbered": {func(f *file) { ask(f).Field[1].Number = proto.Int32(8) }, "p.Ask 2 (uint32 size) is gone"},
		"field renamed":    {func(f *file) { ask(f).Field[1].Name = proto.String("bytes") }, "p.Ask 2 was uint32 size, is uint32 bytes"},
		"field retyped":    {func(f *file) { ask(f).Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_UINT64.Enum() }, "p.Ask 2 was uint32 size, is uint64 size"},
		"another message":  {func(f *file) { ask(f).Field[2].TypeName = proto.String(".p.Other") }, "p.Ask 3 was p.Inner inner, is p.Other inner"},
		"list no more":     {func(f *file) { ask(f).Field[3].Label = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum() }, "p.Ask 4 was repeated string many, is string many"},
		"list now":         {func(f *file) { ask(f).Field[0].Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum() }, "p.Ask 1 was string name, is repeated string name"},
		"into a choice":    {func(f *file) { ask(f).Field[5].OneofIndex = proto.Int32(0) }, "p.Ask 6 was p.Kind kind, is p.Kind kind in choice"},
		"value removed":    {func(f *file) { f.EnumType[0].Value = f.EnumType[0].Value[:1] }, "p.Kind 1 (SOME) is gone"},
		"call removed":     {func(f *file) { f.Service[0].Method = f.Service[0].Method[1:] }, "p.S.Get (p.Ask, p.Inner) is gone"},
		"service removed":  {func(f *file) { f.Service = nil }, "p.S.Watch (p.Ask, stream p.Inner) is gone"},
		"stream no more":   {func(f *file) { f.Service[0].Method[1].ServerStreaming = nil }, "p.S.Watch was p.Ask, stream p.Inner, is p.Ask, p.Inner"},
		"another answer":   {func(f *file) { f.Service[0].Method[0].OutputType = proto.String(".p.Other") }, "p.S.Get was p.Ask, p.Inner, is p.Ask, p.Other"},
		"message removed":  {func(f *file) { f.MessageType = f.MessageType[:2] }, "p.Other (message) is gone"},
	} {
		f := sample()
		c.change(f)
		got := strings.Join(released.Breaks(describe(t, f)), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, wants %q", name, got, c.want)
		}
	}
	if parsed, err := Parse(released.Marshal()); err != nil || !reflect.DeepEqual(parsed, released) {
		t.Errorf("written and read again: %v %v", parsed, err)
	}
	for _, text := range []string{"no tab\n", "a 1\tx\na 1\ty\n"} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// The API as it is serves the clients of the last release.
func TestReleased(t *testing.T) {
	t.Parallel()
	if err := run("../v1/released.txt", false); err != nil {
		t.Error(err)
	}
	// A release may not break them either, and otherwise writes all there is.
	path := filepath.Join(t.TempDir(), "released.txt")
	broken := current()
	broken["secexec.hostagent.v1.Guest 1"] = "bytes name"
	if err := os.WriteFile(path, broken.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(path, true); err == nil {
		t.Error("a release that breaks the last one is written")
	}
	if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(path, true); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(text); err != nil || !reflect.DeepEqual(got, current()) {
		t.Errorf("%v %v", got, err)
	}
}
