package placement

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func hash(b byte) [32]byte { return [32]byte{0: b, 31: b} }

func TestCheck(t *testing.T) {
	t.Parallel()
	a, b, c := hash(0xaa), hash(0xbb), hash(0xcc)
	index := []Slot{{a, "CN=alpha"}, {b, "CN=beta"}}
	for _, tc := range []struct {
		name   string
		header [][32]byte
		index  []Slot
		node   [][32]byte
		want   error
		words  []string
	}{
		{name: "first slot", header: [][32]byte{a, b}, index: index, node: [][32]byte{a}},
		{name: "second slot", header: [][32]byte{a, b}, index: index, node: [][32]byte{b}},
		{name: "backup key", header: [][32]byte{a, b}, index: index, node: [][32]byte{c, b}},
		{name: "index in another order", header: [][32]byte{b, a}, index: index, node: [][32]byte{a}},
		{name: "slot twice in both", header: [][32]byte{a, a}, index: []Slot{{a, "x"}, {a, "y"}}, node: [][32]byte{a}},

		{name: "no slot", header: [][32]byte{a, b}, index: index, node: [][32]byte{c}, want: ErrNoSlot,
			words: []string{"host key cc000000…", `it can start on "CN=alpha" (aa000000…), "CN=beta" (bb000000…)`}},
		{name: "unnamed host", header: [][32]byte{a}, index: []Slot{{Hash: a}}, node: [][32]byte{c}, want: ErrNoSlot, words: []string{"an unnamed host (aa000000…)"}},
		{name: "node without keys", header: [][32]byte{a, b}, index: index, want: ErrNoSlot, words: []string{"which has no host key"}},
		{name: "image without slots", node: [][32]byte{c}, want: ErrNoSlot, words: []string{"no key slot at all"}},

		{name: "index names a slot more", header: [][32]byte{a}, index: index, node: [][32]byte{a}, want: ErrIndex, words: []string{`"CN=beta"`, "bb000000…"}},
		{name: "index names a slot less", header: [][32]byte{a, b}, index: index[:1], node: [][32]byte{a}, want: ErrIndex, words: []string{"bb000000…"}},
		{name: "index names another", header: [][32]byte{a, c}, index: index, node: [][32]byte{a}, want: ErrIndex},
		{name: "index empty", header: [][32]byte{a}, node: [][32]byte{a}, want: ErrIndex},
		{name: "twice in the index", header: [][32]byte{a, b}, index: []Slot{{a, "x"}, {a, "y"}}, node: [][32]byte{a}, want: ErrIndex},
		{name: "twice in the header", header: [][32]byte{a, a}, index: []Slot{{a, "x"}}, node: [][32]byte{a}, want: ErrIndex},
		{name: "one byte differs", header: [][32]byte{{0: 0xaa, 31: 0xab}}, index: index[:1], node: [][32]byte{a}, want: ErrIndex},
		{name: "one byte of the node's differs", header: [][32]byte{a}, index: index[:1], node: [][32]byte{{0: 0xaa, 31: 0xab}}, want: ErrNoSlot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := Check(tc.header, tc.index, tc.node)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			for _, w := range tc.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// Names come from the bundle: whatever they hold, the error is one line of
// bounded length.
func TestErrorsBoundNames(t *testing.T) {
	t.Parallel()
	var header [][32]byte
	var index []Slot
	for i := range 95 {
		header = append(header, hash(byte(i+1)))
		index = append(index, Slot{hash(byte(i + 1)), "evil\x1b[2J\nFAKE LOG LINE\u202e\xff" + strings.Repeat("é", 2000)})
	}
	err := Check(header, index, [][32]byte{hash(200)})
	if !errors.Is(err, ErrNoSlot) {
		t.Fatal(err)
	}
	text := err.Error()
	if len(text) > 4096 || strings.ContainsAny(text, "\x1b\n\u202e") || !utf8.ValidString(text) {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	if want := fmt.Sprintf("%d more", 95-maxNamed); !strings.HasSuffix(text, want) {
		t.Errorf("error does not end in %q: %q", want, text)
	}
}
