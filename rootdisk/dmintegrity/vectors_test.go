package dmintegrity

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
)

var update = flag.Bool("update", false, "rewrite vectors")

const vectorDir = "../../docs/formats/vectors/dm-integrity"

// start is a device of which only the start is there: the rest are zeros.
type start []byte

func (s start) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(s)) {
		return 0, io.EOF
	}
	if n := copy(b, s[at:]); n < len(b) {
		return n, io.EOF
	}
	return len(b), nil
}

func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	vectors.Walk(t, vectorDir, []string{"ok", "invalid"}, []string{"device", "data", "journal", "pending"}, func(t *testing.T, v *vectors.Vector) {
		size, err := strconv.ParseInt(v.Get("device"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		l, err := Read(start(v.Body), size)
		var j *Journal
		if err == nil {
			j, err = l.ReadJournal(start(v.Body))
		}
		if v.Expect == "invalid" {
			if !errors.Is(err, ErrDevice) {
				t.Errorf("got %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var pending []string
		for at := int64(0); at < l.Provided; at += SectorSize {
			if _, ok := j.sectors[at]; ok {
				pending = append(pending, fmt.Sprint(at))
			}
		}
		if got := fmt.Sprintf("%d %d %s", l.Provided, l.JournalSectors(), strings.Join(pending, " ")); got != fmt.Sprintf("%s %s %s", v.Get("data"), v.Get("journal"), v.Get("pending")) {
			t.Errorf("got %s", got)
		}
	})
}

func writeVectors(t *testing.T) {
	l, whole := device(t, 1<<20)
	long, longer := device(t, 50<<20)
	head := func(m memory, l *Layout) []byte { return bytes.Clone(m[:superblock+l.Sections*sectionSize]) }
	edit := func(change func(m memory)) []byte {
		m := memory(head(whole, &l))
		change(m)
		return m
	}
	set := func(at int, value ...byte) []byte { return edit(func(m memory) { copy(m[at:], value) }) }
	wrapped := memory(head(longer, &long))
	for s := range long.Sections {
		wrapped.commit(s, 3, map[int]int64{1: int64(s) * SectorSize})
	}
	wrapped.commit(0, 0, map[int]int64{1: 1 << 20, 2: 99 << 40})
	torn := memory(bytes.Clone(wrapped))
	copy(torn[superblock+2*sectionSize+unit-commitID:], bytes.Repeat([]byte{0x33}, 4))
	copy(torn[superblock+2*sectionSize+unit-commitID+4:], []byte{0x31, 0x33, 0x33, 0x33})
	for _, v := range []struct {
		name, expect, comment, pending string
		l                              *Layout
		body                           []byte
	}{
		{"ok-fresh", "ok", "as it is made, the journal empty", "", &l, head(whole, &l)},
		{"ok-committed", "ok", "a section committed after that", "4096 8192", &l, edit(func(m memory) { m.commit(0, 1, map[int]int64{0: 8192, 31: 4096}) })},
		{"ok-same-sector", "ok", "two entries for one sector: the later counts", "4096", &l, edit(func(m memory) { m.commit(0, 1, map[int]int64{0: 4096, 8: 4096}) })},
		{"ok-wrapped", "ok", "pass 0 after pass 3; an entry behind the data is left out", "4096 8192 1048576", &long, wrapped},
		{"ok-torn", "ok", "a section of two passes ends what counts", "4096", &long, torn},
		{"magic", "invalid", "no superblock", "", &l, set(0, 'I')},
		{"version", "invalid", "version 5", "", &l, set(sbVersion, 5)},
		{"interleave", "invalid", "areas of 8 MiB", "", &l, set(sbInterleave, 14)},
		{"tag-size", "invalid", "tags of 16 bytes", "", &l, set(sbTagSize, 16)},
		{"flags", "invalid", "tags are being recalculated", "", &l, set(sbFlags, flagFixPadding|2)},
		{"sector-size", "invalid", "sectors of 512 bytes", "", &l, set(sbBlock, 0)},
		{"data", "invalid", "more data than fits", "", &l, set(sbProvided+2, 1)},
		{"journal-length", "invalid", "a journal longer than the device", "", &l, set(sbSections+1, 1)},
		{"journal-commit", "invalid", "a unit without a commit id", "", &l, set(superblock+unit-1, 0)},
		{"truncated", "invalid", "it ends in the journal", "", &l, head(whole, &l)[:superblock+unit]},
	} {
		lines := fmt.Sprintf("expect: %s\ncomment: %s\ndevice: %d\n", v.expect, v.comment, v.l.Size)
		if v.expect == "ok" {
			lines += fmt.Sprintf("data: %d\njournal: %d\npending: %s\n", v.l.Provided, v.l.JournalSectors(), v.pending)
		}
		vectors.Write(t, vectorDir, v.name, lines, v.body, true)
	}
}
