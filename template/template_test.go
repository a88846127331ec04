package template

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
)

var update = flag.Bool("update", false, "rewrite vectors")

const vectorDir = "../docs/formats/vectors/template"

func block(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n*BlockSize) }

func sample() *Template {
	return &Template{Size: 1 << 20, Runs: []Run{{0, block(1, 1)}, {8192, block(0, 2)}, {1<<20 - BlockSize, block(3, 1)}}}
}

// encode is Marshal without its check.
func (t *Template) encode() []byte {
	be := binary.BigEndian
	b := be.AppendUint64([]byte(magic), t.Size)
	b = be.AppendUint32(b, uint32(len(t.Runs)))
	for _, r := range t.Runs {
		b = be.AppendUint32(be.AppendUint64(b, r.Offset), uint32(len(r.Data)))
		b = append(b, r.Data...)
	}
	return b
}

// spoilers each make a template that must be refused.
var spoilers = map[string]func(*Template){
	"size zero":           func(t *Template) { t.Size = 0 },
	"size odd":            func(t *Template) { t.Size++ },
	"size huge":           func(t *Template) { t.Size = maxSize + BlockSize },
	"nothing":             func(t *Template) { t.Runs = nil },
	"run empty":           func(t *Template) { t.Runs[1].Data = nil },
	"length odd":          func(t *Template) { t.Runs[1].Data = t.Runs[1].Data[:100] },
	"offset odd":          func(t *Template) { t.Runs[1].Offset += 512 },
	"adjacent":            func(t *Template) { t.Runs[1].Offset = BlockSize },
	"overlap":             func(t *Template) { t.Runs[1].Offset = 0 },
	"order":               func(t *Template) { t.Runs[0], t.Runs[1] = t.Runs[1], t.Runs[0] },
	"behind the end":      func(t *Template) { t.Runs[2].Offset += BlockSize },
	"across the end":      func(t *Template) { t.Runs[2].Data = block(3, 2) },
	"offset near 2 to 64": func(t *Template) { t.Runs[2].Offset = 1<<64 - BlockSize },
}

func TestSpoiled(t *testing.T) {
	t.Parallel()
	for name, spoil := range spoilers {
		s := sample()
		spoil(s)
		if _, err := s.Marshal(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Marshal: %v", name, err)
		}
		if _, err := Parse(s.encode()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Parse: %v", name, err)
		}
	}
	large := &Template{Size: 1 << 30, Runs: []Run{{0, make([]byte, MaxEncoded-BlockSize)}}}
	if b, err := large.Marshal(); err != nil || len(b) > MaxEncoded {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	large.Runs[0].Data = make([]byte, MaxEncoded)
	if _, err := large.Marshal(); !errors.Is(err, ErrInvalid) {
		t.Errorf("larger than the bound: %v", err)
	}
	if _, err := Parse(large.encode()); !errors.Is(err, ErrInvalid) {
		t.Errorf("larger than the bound: %v", err)
	}
}

func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	vectors.Walk(t, vectorDir, []string{"ok", "invalid"}, []string{"size", "runs"}, func(t *testing.T, v *vectors.Vector) {
		p, err := Parse(v.Body)
		if v.Expect == "invalid" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.Size); got != v.Get("size") {
			t.Errorf("size is %s, the vector says %s", got, v.Get("size"))
		}
		if got := places(p); got != v.Get("runs") {
			t.Errorf("runs are %s, the vector says %s", got, v.Get("runs"))
		}
		if again, err := p.Marshal(); err != nil || !bytes.Equal(again, v.Body) {
			t.Errorf("re-encodes to other bytes: %v", err)
		}
	})
}

// places lists a template's runs as OFFSET+LENGTH.
func places(t *Template) string {
	var out []string
	for _, r := range t.Runs {
		out = append(out, fmt.Sprintf("%d+%d", r.Offset, len(r.Data)))
	}
	return strings.Join(out, " ")
}

func writeVectors(t *testing.T) {
	s := sample()
	vectors.Write(t, vectorDir, "ok", fmt.Sprintf("expect: ok\ncomment: three runs, one of zeros\nsize: %d\nruns: %s\n", s.Size, places(s)), s.encode(), true)
	invalid := func(name, comment string, body []byte) {
		vectors.Write(t, vectorDir, strings.ReplaceAll(name, " ", "-"), "expect: invalid\ncomment: "+comment+"\n", body, true)
	}
	for name, spoil := range spoilers {
		s := sample()
		spoil(s)
		invalid(name, strings.TrimPrefix(s.check().Error(), ErrInvalid.Error()+": "), s.encode())
	}
	b := s.encode()
	magic, more := bytes.Clone(b), bytes.Clone(b)
	magic[7]++
	more[header-1]++
	invalid("magic", "another magic", magic)
	invalid("empty", "no bytes", nil)
	invalid("one run too many", "the count says four runs", more)
	invalid("truncated", "the last byte is missing", b[:len(b)-1])
	invalid("trailing", "a byte after the last run", append(bytes.Clone(b), 0))
}

func TestApply(t *testing.T) {
	t.Parallel()
	f, err := os.CreateTemp(t.TempDir(), "volume")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(block('n', 256)); err != nil {
		t.Fatal(err)
	}
	s := sample()
	if err := s.Apply(f); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := block('n', 256)
	for _, r := range s.Runs {
		copy(want[r.Offset:], r.Data)
	}
	if !bytes.Equal(got, want) {
		t.Error("the volume does not hold the runs, or more changed")
	}
	if err := s.Apply(full{}); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// full is a disk that takes nothing.
type full struct{}

func (full) WriteAt([]byte, int64) (int, error) { return 0, os.ErrInvalid }

func FuzzParse(f *testing.F) {
	small := &Template{Size: 4 * BlockSize, Runs: []Run{{0, block(1, 1)}, {2 * BlockSize, block(2, 1)}}}
	f.Add(small.encode())
	f.Add(sample().encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := p.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("re-encodes to other bytes: %v", err)
		}
	})
}
