package term

import (
	"bytes"
	"testing"
	"time"
)

func TestBytesLine(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	for want, b := range map[string]*Bytes{
		"…    2.0 s  seal  512 MiB of 2048 MiB, 25%  256 MiB/s  6 s left": {name: "seal", total: 2 << 30, started: start},
		"…    2.0 s  seal  512 MiB  256 MiB/s":                            {name: "seal", started: start},
		"…    2.0 s  seal  512 MiB of 100 MiB, 100%  256 MiB/s":           {name: "seal", total: 100 << 20, started: start},
	} {
		if got := b.line(512<<20, start.Add(2*time.Second)); got != want {
			t.Errorf("%q, wants %q", got, want)
		}
	}
}

// Quick work draws no line, slow work few, and none of it stays.
func TestBytesPatience(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b := NewBytes(&out, "seal", 100)
	b.Set(50)
	b.End()
	if out.Len() > 0 {
		t.Errorf("drawn on what is no terminal: %q", out.String())
	}
	b = &Bytes{w: &out, name: "seal", total: 100, started: time.Now()}
	b.Set(50)
	b.End()
	if out.Len() > 0 {
		t.Errorf("drawn at once: %q", out.String())
	}
	b.started = b.started.Add(-time.Minute)
	b.Set(50)
	n := out.Len()
	b.Set(60)
	if n == 0 || out.Len() != n {
		t.Errorf("drawn %d bytes, then %d", n, out.Len())
	}
	b.End()
	if !bytes.HasSuffix(out.Bytes(), []byte("\r\x1b[K")) {
		t.Errorf("the line stays: %q", out.String())
	}
}
