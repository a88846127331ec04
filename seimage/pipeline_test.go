package seimage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// Around the borders of pages, chunks and the ring of them, a stream whose
// size shows at its end gives the image of one whose size is known.
func TestUnsizedSources(t *testing.T) {
	t.Parallel()
	plain := DefaultFlags | NoEncryption
	for _, n := range []int{1, PageSize - 1, PageSize, PageSize + 1, chunkSize - 1, chunkSize, chunkSize + 1, chunks*chunkSize + 7} {
		data := bytes.Repeat([]byte("0123456789abcdef!"), n/17+1)[:n]
		images := map[string]*Image{}
		for name, size := range map[string]int64{"sized": int64(n), "unsized": Unsized} {
			s := spec(t)
			s.PCF = &plain
			s.Kernel = Source{bytes.NewReader(testKernel()), size}
			if size != Unsized {
				s.Kernel.Size = int64(len(testKernel()))
			}
			s.Initrd = Source{iotest.HalfReader(bytes.NewReader(data)), size}
			raw := seal(t, s)
			img, err := Open(bytes.NewReader(raw), int64(len(raw)))
			if err != nil {
				t.Fatal(err)
			}
			c := img.IPIB.Components[1]
			if c.Size != roundUp(uint64(n)) || !bytes.Equal(raw[c.Addr:][:n], data) {
				t.Errorf("%s initrd of %d bytes: %+v", name, n, c)
			}
			images[name] = img
		}
		if a, b := images["sized"], images["unsized"]; a.Header.ALD != b.Header.ALD || a.IPIBAddr != b.IPIBAddr {
			t.Errorf("%d bytes: another layout", n)
		}
	}
}

// failing refuses writes from some address on.
type failing struct{ from int64 }

func (f failing) WriteAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > f.from {
		return 0, errCut
	}
	return len(b), nil
}

// endless goes on until it is told to stop.
type endless struct{ after func() }

func (e endless) Read(b []byte) (int, error) {
	e.after()
	return len(b), nil
}

// Whatever ends an image early ends all of the pipeline, by its own error.
func TestPipelineEnds(t *testing.T) {
	t.Parallel()
	big := make([]byte, 3*chunks*chunkSize)
	errRead := errors.New("bad sector")
	for name, c := range map[string]struct {
		out    io.WriterAt
		initrd Source
		want   error
	}{
		"full disk":            {failing{chunkSize}, source(big), errCut},
		"full in the midst":    {failing{2 * chunks * chunkSize}, source(big), errCut},
		"full at the header":   {failing{0x14010}, Source{}, errCut},
		"unreadable":           {&buffer{}, Source{iotest.ErrReader(errRead), 5}, errRead},
		"unreadable later":     {&buffer{}, Source{io.MultiReader(bytes.NewReader(big), iotest.ErrReader(errRead)), Unsized}, errRead},
		"shorter than it said": {&buffer{}, Source{bytes.NewReader(big), int64(len(big)) + 1}, ErrSource},
	} {
		s := spec(t)
		s.Initrd = c.initrd
		if _, err := Create(t.Context(), c.out, s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	s := spec(t)
	s.Initrd = Source{endless{func() {
		if reads++; reads == 2*chunks {
			cancel()
		}
	}}, Unsized}
	if _, err := Create(ctx, discard{}, s); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
