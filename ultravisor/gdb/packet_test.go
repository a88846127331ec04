package gdb

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// packets are texts and how they travel (GDB manual, "Overview" of appendix E).
var packets = []struct{ text, travelling string }{
	{"", "$#00"},
	{"OK", "$OK#9a"},
	{"Z0,11010,4", "$Z0,11010,4#09"},
	{"T05thread:p01.01;", "$T05thread:p01.01;#06"},
	{"a}b", "$a}]b#9d"},
	{"#$}*", "$}\x03}\x04}]}\x0a#62"},
}

func TestPackets(t *testing.T) {
	t.Parallel()
	for _, p := range packets {
		if got := string(encode(p.text)); got != p.travelling {
			t.Errorf("%q travels as %q, wants %q", p.text, got, p.travelling)
		}
		r := bufio.NewReader(strings.NewReader(p.travelling + "+"))
		if got, err := readPacket(r); got != p.text || err != nil {
			t.Errorf("%q reads as %q, %v", p.travelling, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "+" {
			t.Errorf("after %q %q is left", p.travelling, rest)
		}
	}
}

func TestReadPacketRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, in string
		err      error
	}{
		{"nothing", "", io.EOF},
		{"no start", "OK#9a", ErrProtocol},
		{"notification", "%Stop:T05#00", ErrProtocol},
		{"no end", "$OK", io.ErrUnexpectedEOF},
		{"no checksum", "$OK#", io.ErrUnexpectedEOF},
		{"half a checksum", "$OK#9", io.ErrUnexpectedEOF},
		{"wrong checksum", "$OK#9b", ErrProtocol},
		{"checksum in upper case", "$OK#9A", ErrProtocol},
		{"checksum no number", "$OK#zz", ErrProtocol},
		{"start inside", "$O$K#be", ErrProtocol},
		{"run-length encoding", "$0* #7a", ErrProtocol},
		{"ends in an escape", "$}#7d", ErrProtocol},
		{"escape of a plain byte", "$}A#be", ErrProtocol},
		{"longest and one more", "$" + strings.Repeat("x", maxPacket+1) + "#00", ErrProtocol},
		{"endless", "$" + strings.Repeat("x", 4*maxPacket), ErrProtocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := readPacket(bufio.NewReader(strings.NewReader(test.in)))
			if !errors.Is(err, test.err) || got != "" {
				t.Errorf("reads %.20q, %v; wants %v", got, err, test.err)
			}
		})
	}
	longest := strings.Repeat("x", maxPacket)
	if got, err := readPacket(bufio.NewReader(bytes.NewReader(encode(longest)))); got != longest || err != nil {
		t.Errorf("the longest packet: %d bytes, %v", len(got), err)
	}
}

// What parses travels again as the same bytes.
func FuzzReadPacket(f *testing.F) {
	for _, p := range packets {
		f.Add([]byte(p.travelling))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rest := bytes.NewReader(in)
		r := bufio.NewReader(rest)
		text, err := readPacket(r)
		if err != nil {
			return
		}
		used := len(in) - rest.Len() - r.Buffered()
		if again := encode(text); !bytes.Equal(again, in[:used]) {
			t.Errorf("%q reads as %q and travels again as %q", in[:used], text, again)
		}
	})
}
