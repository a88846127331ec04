package cpio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sample is an archive with the shapes that matter: empty content, each
// residue of padding, every field in use.
func sample(t testing.TB) ([]byte, []Header, []string) {
	t.Helper()
	headers := []Header{
		{Name: "a", Mode: Folder | 0o755, Inode: 1, Links: 2},
		{Name: "a/b", Mode: Regular | 0o400, Inode: 2, Links: 1, Size: 1},
		{Name: "a/bc", Mode: Regular | 0o644, Inode: 3, Links: 1, Size: 2, UID: 4, GID: 5, MTime: 0xfffffffe, Major: 7, Minor: 8},
		{Name: "a/bcd", Mode: Regular | 0o644, Inode: 4, Links: 1, Size: 0},
		{Name: "a/bcde", Mode: Symlink | 0o777, Inode: 5, Links: 1, Size: 3},
		{Name: "null", Mode: 0o020666, Inode: 6, Links: 1, NodeMajor: 1, NodeMinor: 3},
	}
	contents := []string{"", "x", "yz", "", "bcd", ""}
	var out bytes.Buffer
	w := NewWriter(&out)
	for i, h := range headers {
		if err := w.Add(h, []byte(contents[i])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), headers, contents
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	b, headers, contents := sample(t)
	if len(b)%archiveUnit != 0 {
		t.Errorf("an archive of %d bytes", len(b))
	}
	for _, archive := range [][]byte{b, bytes.ReplaceAll(b, []byte("FFFFFFFE"), []byte("fffffffe"))} {
		r := NewReader(bytes.NewReader(archive))
		for i, want := range headers {
			h, err := r.Next()
			if err != nil || h != want {
				t.Fatalf("member %d: %+v, %v, want %+v", i, h, err, want)
			}
			if i%2 == 0 { // every other member is passed over unread
				if content, err := io.ReadAll(r); err != nil || string(content) != contents[i] {
					t.Errorf("member %d: %q, %v", i, content, err)
				}
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	b, _, _ := sample(t)
	patch := func(at int, s string) []byte {
		c := bytes.Clone(b)
		copy(c[at:], s)
		return c
	}
	for name, tt := range map[string]struct {
		archive []byte
		want    error
	}{
		"empty":              {nil, io.ErrUnexpectedEOF},
		"half a header":      {b[:50], io.ErrUnexpectedEOF},
		"half a name":        {b[:headerSize+1], io.ErrUnexpectedEOF},
		"no end":             {b[:headerSize+2], io.ErrUnexpectedEOF},
		"old binary":         {patch(0, "\x71\xc7"), ErrFormat},
		"with check sums":    {patch(0, "070702"), ErrFormat},
		"stripped, as rpm's": {patch(0, "07070X"), ErrFormat},
		"no digit":           {patch(6, "0000000G"), ErrFormat},
		"no name":            {patch(94, "00000001"), ErrFormat},
		"long name":          {patch(94, "00001001"), ErrFormat},
		"huge name":          {patch(94, "FFFFFFFF"), ErrFormat},
		"check sum":          {patch(102, "00000001"), ErrFormat},
		"name without end":   {patch(headerSize+1, "x"), ErrFormat},
		"NUL in the name":    {patch(headerSize, "\x00"), ErrFormat},
		"size past the end":  {patch(54, "FFFFFFFF"), io.ErrUnexpectedEOF},
	} {
		r := NewReader(bytes.NewReader(tt.archive))
		_, err := r.Next()
		if err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: Next gave %v, want %v", name, err, tt.want)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a\x00b", trailer, strings.Repeat("x", maxName)} {
		if err := NewWriter(io.Discard).Add(Header{Name: name}, nil); err == nil {
			t.Errorf("a member %.20q was written", name)
		}
	}
	if err := NewWriter(io.Discard).Add(Header{Name: strings.Repeat("x", maxName-1)}, nil); err != nil {
		t.Error(err)
	}
}

// TestPremiseGNU reads what GNU cpio writes.
func TestPremiseGNU(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio here to compare with (Debian package cpio)")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-o", "-H", "newc", "--quiet")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("file\n")
	b, err := cmd.Output()
	if err != nil {
		t.Skipf("cpio does not run here: %v", err)
	}
	r := NewReader(bytes.NewReader(b))
	h, err := r.Next()
	if err != nil || h.Name != "file" || h.Mode != Regular|0o640 || h.Size != 7 {
		t.Fatalf("GNU cpio's member: %+v, %v", h, err)
	}
	if content, err := io.ReadAll(r); err != nil || string(content) != "content" {
		t.Errorf("GNU cpio's content: %q, %v", content, err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("GNU cpio's end: %v", err)
	}
}

// FuzzReader: what parses re-encodes to the same bytes, but for the case of
// digits.
func FuzzReader(f *testing.F) {
	b, _, _ := sample(f)
	f.Add(b)
	f.Add(b[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		var out bytes.Buffer
		w := NewWriter(&out)
		for {
			h, err := r.Next()
			if err != nil {
				break
			}
			start := out.Len()
			content, err := io.ReadAll(r)
			if err != nil {
				break
			}
			if err := w.Add(h, content); err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			// The padding behind it is read with the next header.
			got, want := out.Bytes()[start:], b[start:]
			got = got[:len(got)-int(padding(int64(h.Size)))]
			if len(want) < len(got) || !bytes.Equal(got[:headerSize], bytes.ToUpper(want[:headerSize])) || !bytes.Equal(got[headerSize:], want[headerSize:len(got)]) {
				t.Fatalf("%q was read and %q written", want, got)
			}
		}
	})
}
