package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range []*Record{sample(), data(), full()} {
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unmarshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, r) {
			t.Errorf("got %v\nwants %v", got, r)
		}
		b.Wipe()
		if !bytes.Equal(got.Root.Key, r.Root.Key) {
			t.Error("parsed record shares memory with its encoding")
		}
		if s := fmt.Sprintf("%+v", got); strings.Contains(s, "34 34") || strings.Contains(s, "3 3 3") || !strings.Contains(s, "[redacted]") {
			t.Errorf("record prints its key: %s", s)
		}
		got.Wipe()
		for _, v := range got.volumes() {
			if bytes.ContainsFunc(v.Key, func(c rune) bool { return c != 0 }) {
				t.Errorf("the key of %x is not wiped", v.ID)
			}
		}
	}
}

func TestCheckRefusals(t *testing.T) {
	t.Parallel()
	for name, spoil := range spoilers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := full()
			spoil(r)
			if _, err := r.Marshal(); !errors.Is(err, ErrInvalid) {
				t.Errorf("Marshal: %v", err)
			}
		})
	}
}

func TestUnmarshalRefusals(t *testing.T) {
	t.Parallel()
	whole, err := full().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := Unmarshal(whole[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	cases := map[string][]byte{
		"trailing byte": append(bytes.Clone(whole), 0),
		"too large":     make([]byte, MaxSize+1),
		"version":       edit(whole, 9, 2),
		"magic":         edit(whole, 0, 's'),
	}
	for name, b := range cases {
		if _, err := Unmarshal(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func edit(b []byte, at int, v byte) []byte {
	c := bytes.Clone(b)
	c[at] = v
	return c
}

func FuzzUnmarshal(f *testing.F) {
	whole, err := full().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(whole))
	for _, r := range []*Record{sample(), data()} {
		if whole, err = r.Marshal(); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(whole))
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Unmarshal(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("parsed record re-encodes to other bytes: %v", err)
		}
	})
}

func TestHandoff(t *testing.T) {
	t.Parallel()
	h := &Handoff{IdentitySeed: bytes.Repeat([]byte{7}, 32), BootID: [16]byte{1}, StopSignal: 38, RootMode: Verity, Ready: ReadyAtNotify, Channel: full().Channel, Stages: []Stage{{"kernel", 1200}, {"mounted", 1 << 40}}}
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalHandoff(b)
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v %v", got, err)
	}
	for n := range b {
		if _, err := UnmarshalHandoff(b[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	if _, err := UnmarshalHandoff(append(bytes.Clone(b), 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("byte added: %v", err)
	}
}
