package ultravisor

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/secexec/secexec/seimage"
)

// open unpacks an image file with the first test host's key.
func open(t *testing.T, s *sealed) *Unpacked {
	t.Helper()
	u, err := OpenFile(bytes.NewReader(s.bytes), int64(len(s.bytes)), host(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Wipe)
	return u
}

func TestOpenFile(t *testing.T) {
	t.Parallel()
	pcf := seimage.DefaultFlags | seimage.NoEncryption
	long := bytes.Repeat([]byte("0123456789abcdef"), 2*chunkSize/16+3)
	for name, change := range map[string]func(*seimage.Spec, *sealed){
		"as usual":         func(*seimage.Spec, *sealed) {},
		"no initrd":        func(spec *seimage.Spec, s *sealed) { spec.Initrd, s.initrd = seimage.Source{}, nil },
		"no command line":  func(spec *seimage.Spec, s *sealed) { spec.Cmdline, s.cmdline = nil, nil },
		"plain components": func(spec *seimage.Spec, _ *sealed) { spec.PCF = &pcf },
		"several chunks": func(spec *seimage.Spec, s *sealed) {
			spec.Initrd, s.initrd = seimage.Source{R: bytes.NewReader(long), Size: int64(len(long))}, long
		},
		"initrd of whole chunks": func(spec *seimage.Spec, s *sealed) {
			s.initrd = long[:chunkSize]
			spec.Initrd = seimage.Source{R: bytes.NewReader(s.initrd), Size: chunkSize}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := *common()
			s := seal(t, func(spec *seimage.Spec) { change(spec, &want) })
			u := open(t, s)
			for _, part := range []struct {
				name string
				get  func() (io.Reader, int64)
				want []byte
			}{{"kernel", u.Kernel, want.kernel}, {"initrd", u.Initrd, want.initrd}, {"cmdline", u.Cmdline, want.cmdline}} {
				r, n := part.get()
				if n != int64(len(part.want)) {
					t.Errorf("%s: %d bytes, wants %d", part.name, n, len(part.want))
				}
				if len(part.want) > 1 {
					if err := iotest.TestReader(r, part.want); err != nil {
						t.Errorf("%s: %v", part.name, err)
					}
				} else if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, part.want) {
					t.Errorf("%s: %q, %v", part.name, b, err)
				}
			}
			if u.PSW.Addr != s.summary.IPIB.Components[3].Addr {
				t.Errorf("starts at 0x%x", u.PSW.Addr)
			}
		})
	}
}

// A command line that fills a page but for its NUL, and that with its NUL is
// one byte more than a page.
func TestOpenFileCmdlineAtAPage(t *testing.T) {
	t.Parallel()
	for _, n := range []int{4094, 4095, 4096, 4097} {
		cmdline := bytes.Repeat([]byte("x"), n)
		kernel := testKernel(nil)
		kernel[0x10436] = 0x20 // takes 8 KiB
		s := seal(t, func(spec *seimage.Spec) {
			spec.Kernel.R, spec.Cmdline = bytes.NewReader(kernel), cmdline
		})
		r, size := open(t, s).Cmdline()
		if got, err := io.ReadAll(r); err != nil || int(size) != n || !bytes.Equal(got, cmdline) {
			t.Errorf("command line of %d bytes: %d of %d bytes, %v", n, len(got), size, err)
		}
	}
}

func TestOpenFileRefuses(t *testing.T) {
	t.Parallel()
	s := common()
	at, ipib := s.summary.HeaderAddr, s.summary.IPIBAddr
	for _, test := range []struct {
		name   string
		at     uint64
		result uint64 // 0: no refusal of firmware's, but this error
		err    error
	}{
		{"header version", at + 8, 0x0002_0001_0104_0a02, seimage.ErrHeaderVersion},
		{"header size", at + 15, sizeBad, seimage.ErrHeaderSize},
		{"header digest", at + 224, tagBad, seimage.ErrHeaderTag},
		{"own slot", at + 416 + 40, 0x0002_0000_0108_0a02, seimage.ErrSlotTag},
		{"own slot's hash", at + 416, 0x0002_0005_0108_0a02, seimage.ErrNoSlotForHost},
		{"page", s.summary.IPIB.Components[1].Addr + 5000, pagesBad, nil},
		{"IPIB version", ipib + 7, invalid, seimage.ErrIPIB},
		{"IPIB tweak", ipib + 136 + 7, tweaksBad, nil},
		{"component beyond the file", ipib + 136 + 3*24 + 8 + 3, 0, seimage.ErrTruncated},
		{"metadata points behind the end", seimage.MetadataAddr + 11, 0, seimage.ErrNotImage},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(s.bytes)
			b[test.at] ^= 1
			u, err := OpenFile(bytes.NewReader(b), int64(len(b)), host(t, 0))
			if u != nil || err == nil {
				t.Fatal("admitted")
			}
			var r *Refusal
			if errors.As(err, &r) != (test.result != 0) || r != nil && r.Result() != test.result {
				t.Errorf("error %v, wants result 0x%016x", err, test.result)
			}
			if test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("error %v, wants %v", err, test.err)
			}
		})
	}
	if _, err := OpenFile(bytes.NewReader(s.bytes), int64(len(s.bytes)), host(t, 2)); !errors.Is(err, seimage.ErrNoSlotForHost) {
		t.Errorf("another host: %v", err)
	}
}

// An authentic image whose parts lie elsewhere than its boot loader says is
// told from one that was changed.
func TestOpenFileParts(t *testing.T) {
	t.Parallel()
	s := common()
	for name, addr := range map[string]uint64{
		"starts nowhere":       0x1000,
		"starts in the kernel": s.summary.IPIB.Components[0].Addr,
	} {
		mem := s.ram()
		s.reseal(t, mem, func(_ *seimage.Header, x *seimage.Secrets) { x.PSW.Addr = addr })
		b := mem[:len(s.bytes)]
		if _, err := OpenFile(bytes.NewReader(b), int64(len(b)), host(t, 0)); !errors.Is(err, ErrParts) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file that somebody writes to after it was verified gives no complete part.
func TestOpenFileChangesUnderneath(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("initrd"), chunkSize/2)
	s := seal(t, func(spec *seimage.Spec) {
		spec.Initrd = seimage.Source{R: bytes.NewReader(long), Size: int64(len(long))}
	})
	for i, part := range []func(*Unpacked) (io.Reader, int64){(*Unpacked).Kernel, (*Unpacked).Initrd, (*Unpacked).Cmdline} {
		c := s.summary.IPIB.Components[i]
		for _, at := range []uint64{c.Addr, c.Addr + c.Size - 1} {
			u := open(t, s)
			r, n := part(u)
			s.bytes[at] ^= 1
			got, err := io.ReadAll(r)
			if !errors.Is(err, ErrChanged) || int64(len(got)) >= n {
				t.Errorf("component %d changed at 0x%x: %d of %d bytes, %v", i, at, len(got), n, err)
			}
			s.bytes[at] ^= 1
		}
	}
	// And one that is cut off.
	f := &cut{b: s.bytes, n: int64(len(s.bytes))}
	u, err := OpenFile(f, f.n, host(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Wipe()
	f.n = int64(s.summary.IPIB.Components[1].Addr) + chunkSize + 100
	r, _ := u.Initrd()
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file cut off: %v", err)
	}
}

// cut is a file that gets shorter.
type cut struct {
	b []byte
	n int64
}

func (c *cut) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(c.b[:c.n]).ReadAt(b, at)
}

// What opening allocates does not grow with the image. Not parallel: it counts
// the whole process's allocations.
func TestOpenFileMemory(t *testing.T) {
	cost := func(n int64) uint64 {
		s := seal(t, func(spec *seimage.Spec) {
			spec.Initrd = seimage.Source{R: bytes.NewReader(make([]byte, n)), Size: n}
		})
		key := host(t, 0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		u, err := OpenFile(bytes.NewReader(s.bytes), int64(len(s.bytes)), key)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Wipe()
		r, _ := u.Initrd()
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	cost(4096) // what is made once
	if small, large := cost(2*chunkSize), cost(8*chunkSize); large > small+chunkSize/4 {
		t.Errorf("an image %d bytes larger needs %d bytes more", 6*chunkSize, large-small)
	}
}
