package seimage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"reflect"
	"sync"
	"testing"

	"github.com/secexec/secexec/secret"
)

// buffer is an image in memory.
// buffer may be written to by several at once.
type buffer struct {
	mu sync.Mutex
	b  []byte
}

func (w *buffer) WriteAt(b []byte, at int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if need := int(at) + len(b); need > len(w.b) {
		w.b = append(w.b, make([]byte, need-len(w.b))...)
	}
	return copy(w.b[at:], b), nil
}

func testKernel() []byte {
	b := bytes.Repeat([]byte{0xa5}, 70<<10)
	copy(b[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(b[0x10430:], 4096)
	return b
}

func source(b []byte) Source { return Source{bytes.NewReader(b), int64(len(b))} }

func hosts(t testing.TB, n int) (out []*ecdsa.PublicKey) {
	t.Helper()
	for range n {
		key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &key.PublicKey)
	}
	return out
}

func spec(t testing.TB) Spec {
	return Spec{Kernel: source(testKernel()), Initrd: source([]byte("initrd")), Cmdline: []byte("quiet"), Hosts: hosts(t, 1)}
}

func TestCreateAndOpen(t *testing.T) {
	t.Parallel()
	var out buffer
	s := spec(t)
	s.Hosts, s.HeaderKey = hosts(t, 3), filled(32, 9)
	made, err := Create(t.Context(), &out, s)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(out.b)) != made.Size {
		t.Errorf("image has %d bytes, said %d", len(out.b), made.Size)
	}
	img, err := Open(bytes.NewReader(out.b), made.Size)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(img.Header, made.Header) || !reflect.DeepEqual(img.IPIB, made.IPIB) || img.Legacy {
		t.Errorf("opened %+v", img)
	}
	if n := len(img.IPIB.Components); n != 4 || img.Header.NEP != 18+1+1+1 {
		t.Errorf("%d components, %d pages", n, img.Header.NEP)
	}
	secrets, err := img.Header.Open(s.HeaderKey)
	if err != nil || secrets.PSW != (PSW{MaskBAEA, img.IPIB.Components[3].Addr}) {
		t.Errorf("%+v %v", secrets, err)
	}
	if _, err := img.Header.Open(filled(32, 8)); !errors.Is(err, ErrHeaderTag) {
		t.Errorf("another header key: %v", err)
	}
	if bytes.Contains(out.b, testKernel()[:4096]) || bytes.Contains(out.b, []byte("initrd")) || bytes.Contains(out.b, []byte("quiet")) {
		t.Error("the image holds a part in plain text")
	}
	// Two images of the same parts share nothing that tells so.
	var again buffer
	s2 := spec(t)
	if _, err := Create(t.Context(), &again, s2); err != nil {
		t.Fatal(err)
	}
	if at := img.IPIB.Components[0].Addr; bytes.Equal(again.b[at:at+PageSize], out.b[at:at+PageSize]) {
		t.Error("two images have equal pages")
	}
}

func TestHeaderLimits(t *testing.T) {
	t.Parallel()
	var out buffer
	s := spec(t)
	s.Hosts = hosts(t, MaxSlots)
	made, err := Create(t.Context(), &out, s)
	if err != nil || MaxSlots != 95 {
		t.Fatalf("%d key slots: %v", MaxSlots, err)
	}
	if made.Header.Size() > MaxHeaderSize {
		t.Errorf("header of %d bytes", made.Header.Size())
	}
	if _, err := Open(bytes.NewReader(out.b), made.Size); err != nil {
		t.Error(err)
	}
	s = spec(t)
	s.Hosts = hosts(t, MaxSlots+1)
	if _, err := Create(t.Context(), &buffer{}, s); !errors.Is(err, ErrHosts) {
		t.Errorf("%d key slots: %v", MaxSlots+1, err)
	}
}

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	noFlags, dump, plain := Flags(1), AllowDump, NoEncryption
	odd, below, behind := uint64(0x16001), uint64(0x15000), uint64(1<<40)
	cases := map[string]struct {
		spoil func(*Spec)
		want  error
	}{
		"ELF":               {func(s *Spec) { k := testKernel(); copy(k, "\x7fELF"); s.Kernel = source(k) }, ErrKernel},
		"too small":         {func(s *Spec) { s.Kernel = source(testKernel()[:0x10fff]) }, ErrKernel},
		"empty":             {func(s *Spec) { s.Kernel = source(nil) }, ErrKernel},
		"not s390x":         {func(s *Spec) { k := testKernel(); clear(k[0x10008:0x1000e]); s.Kernel = source(k) }, ErrKernel},
		"too large":         {func(s *Spec) { s.Kernel.Size = MaxKernelSize + 1 }, ErrKernel},
		"initrd too large":  {func(s *Spec) { s.Initrd.Size = MaxInitrdSize + 1 }, ErrInitrd},
		"kernel shorter":    {func(s *Spec) { s.Kernel.Size++ }, ErrSource},
		"kernel longer":     {func(s *Spec) { s.Kernel.Size -= 10 }, ErrSource},
		"initrd shorter":    {func(s *Spec) { s.Initrd.Size += 5000 }, ErrSource},
		"initrd longer":     {func(s *Spec) { s.Initrd.Size-- }, ErrSource},
		"command line":      {func(s *Spec) { s.Cmdline = bytes.Repeat([]byte("x"), 4096) }, ErrCmdline},
		"command line, NUL": {func(s *Spec) { s.Cmdline = []byte("a\x00b") }, ErrCmdline},
		"old limit": {func(s *Spec) {
			k := testKernel()
			clear(k[0x10430:0x10438])
			s.Kernel, s.Cmdline = source(k), bytes.Repeat([]byte("x"), 896)
		}, ErrCmdline},
		"no host":              {func(s *Spec) { s.Hosts = nil }, ErrHosts},
		"header key":           {func(s *Spec) { s.HeaderKey = filled(31, 1) }, ErrKeySize},
		"image key":            {func(s *Spec) { s.ImageKey = filled(32, 1) }, ErrKeySize},
		"image key, halves":    {func(s *Spec) { s.ImageKey = filled(64, 1) }, ErrKeySize},
		"communication key":    {func(s *Spec) { s.CommKey = secret.Bytes{} }, ErrKeySize},
		"unknown flags":        {func(s *Spec) { s.PCF = &noFlags }, ErrFlags},
		"key for plain pages":  {func(s *Spec) { s.PCF, s.ImageKey = &plain, filled(64, 1) }, ErrFlags},
		"start, odd":           {func(s *Spec) { s.PSWAddr = &odd }, ErrPSW},
		"start in the header":  {func(s *Spec) { s.PSWAddr = &below }, ErrPSW},
		"start behind it all":  {func(s *Spec) { s.PSWAddr = &behind }, ErrPSW},
		"host twice":           {func(s *Spec) { s.Hosts = append(s.Hosts, s.Hosts[0]) }, ErrHosts},
		"unchecked, too small": {func(s *Spec) { s.NoCheck, s.Kernel = true, source(testKernel()[:0x10fff]) }, ErrKernel},
		"unchecked, cmdline":   {func(s *Spec) { s.NoCheck, s.Cmdline = true, bytes.Repeat([]byte("x"), 4096) }, ErrCmdline},
		"dump without own CCK": {func(s *Spec) { s.PCF = &dump }, ErrFlags},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec(t)
			c.spoil(&s)
			if _, err := Create(t.Context(), &buffer{}, s); !errors.Is(err, c.want) {
				t.Errorf("got %v, wants %v", err, c.want)
			}
		})
	}
	if _, err := Create(canceled, &buffer{}, spec(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	s := spec(t)
	s.Cmdline = bytes.Repeat([]byte("x"), 4095)
	if _, err := Create(t.Context(), &buffer{}, s); err != nil {
		t.Errorf("longest command line: %v", err)
	}
}

func TestCheckFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pcf Flags
		scf SecretFlags
		cck bool
		ok  bool
	}{
		{DefaultFlags, 0, false, true}, {KnownFlags, 0, true, true}, {0, 0, false, true}, {NoEncryption, 0, false, true},
		{1, 0, true, false}, {0, 1, true, false}, {AllowDump, 0, false, false}, {AllowDump, CCKUpdate, false, true}, {AllowDump, 0, true, true},
		{0, CCKExtensionSecret, false, false}, {0, CCKExtensionSecret, true, true}, {0, KnownSecretFlags, true, false},
	} {
		if err := CheckFlags(c.pcf, c.scf, c.cck); (err == nil) != c.ok {
			t.Errorf("%v %x own CCK %v: %v", c.pcf, uint64(c.scf), c.cck, err)
		}
	}
	if got := (DefaultFlags | 1).String(); got != "pckmo-dea pckmo-aes pckmo-ecc unknown-0x1" {
		t.Error(got)
	}
}

func sampleHeader(t testing.TB) *Header {
	t.Helper()
	var out buffer
	made, err := Create(t.Context(), &out, spec(t))
	if err != nil {
		t.Fatal(err)
	}
	return made.Header
}

func TestParseHeaderRefusals(t *testing.T) {
	t.Parallel()
	whole := sampleHeader(t).Marshal()
	put32 := func(at int, v uint32) []byte {
		b := bytes.Clone(whole)
		binary.BigEndian.PutUint32(b[at:], v)
		return b
	}
	put64 := func(at int, v uint64) []byte {
		b := bytes.Clone(whole)
		binary.BigEndian.PutUint64(b[at:], v)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing": {nil, ErrHeaderMagic}, "short": {whole[:415], ErrHeaderMagic}, "magic": {put32(0, 0), ErrHeaderMagic},
		"version": {put32(8, 0x200), ErrHeaderVersion}, "size": {put32(12, 639), ErrHeaderSize}, "size too large": {put32(12, 8193), ErrHeaderSize},
		"cut off": {whole[:639], ErrHeaderSize}, "reserved": {put32(28, 1), ErrReserved}, "no slots": {put64(32, 0), ErrNoSlots},
		"many slots": {put64(32, 96), ErrHeaderSize}, "slots overflow": {put64(32, 1<<60), ErrHeaderSize},
		"no area": {put64(40, 0), ErrEncryptedSize}, "area too large": {put64(40, 1<<63), ErrEncryptedSize}, "area": {put64(40, 129), ErrHeaderSize},
	} {
		if _, err := ParseHeader(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIPIB(t *testing.T) {
	t.Parallel()
	p := &IPIB{Loadparm: [8]byte{1}, HeaderAddr: 0x14000, HeaderSize: 640}
	for i := range uint64(MaxComponents) {
		p.Components = append(p.Components, IPIBComponent{i + 1, 0x16000 + i*PageSize, PageSize})
	}
	raw := p.Marshal()
	if MaxComponents != 165 || len(raw) > MaxIPIBSize {
		t.Errorf("%d components, %d bytes", MaxComponents, len(raw))
	}
	got, err := ParseIPIB(raw)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Fatalf("%+v %v", got, err)
	}
	edit := func(change func(*IPIB)) []byte {
		c := *p
		c.Components = append([]IPIBComponent(nil), p.Components[:3]...)
		change(&c)
		return c.Marshal()
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "cut off": raw[:len(raw)-1],
		"no component": edit(func(p *IPIB) { p.Components = nil }),
		"unaligned":    edit(func(p *IPIB) { p.Components[1].Addr++ }), "odd size": edit(func(p *IPIB) { p.Components[1].Size++ }),
		"empty":   edit(func(p *IPIB) { p.Components[1].Size = 0 }),
		"wraps":   edit(func(p *IPIB) { p.Components[2].Size = 1<<64 - PageSize }),
		"overlap": edit(func(p *IPIB) { p.Components[0].Size = 2 * PageSize }),
		"tweaks":  edit(func(p *IPIB) { p.Components[1].TweakPrefix = p.Components[0].TweakPrefix }),
	} {
		if _, err := ParseIPIB(b); !errors.Is(err, ErrIPIB) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// legacyIPIB is the block as the older C tool writes it: a page, version 0.
func legacyIPIB(block []byte) []byte {
	b := append(bytes.Clone(block), make([]byte, MaxIPIBSize-len(block))...)
	binary.BigEndian.PutUint32(b, MaxIPIBSize)
	b[ipibHeader+103] = 0
	return b
}

func TestLegacyIPIB(t *testing.T) {
	t.Parallel()
	p := &IPIB{HeaderSize: 640, Components: []IPIBComponent{{TweakPrefix: 1, Addr: 0x15000, Size: PageSize}}}
	raw := legacyIPIB(p.Marshal())
	raw[len(raw)-1] = 7 // ignored, and kept
	got, err := ParseIPIB(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.HeaderSize != 640 || !reflect.DeepEqual(got.Components, p.Components) || got.Size() != MaxIPIBSize || !bytes.Equal(got.Marshal(), raw) {
		t.Errorf("got %+v", got)
	}
}

// What tools show is what the boot loader loads.
func TestMetadataAgainstLoader(t *testing.T) {
	t.Parallel()
	var out buffer
	made, err := Create(t.Context(), &out, spec(t))
	if err != nil {
		t.Fatal(err)
	}
	img, err := Open(bytes.NewReader(out.b), made.Size)
	if err != nil || img.ArgsAddr <= Stage3aAddr || img.ArgsAddr >= made.HeaderAddr {
		t.Fatalf("arguments at 0x%x: %v", img.ArgsAddr, err)
	}
	moved := append(bytes.Clone(out.b), made.IPIB.Marshal()...)
	copy(moved[MetadataAddr:], Metadata{made.HeaderAddr, uint64(made.Size)}.marshal())
	if _, err := Open(bytes.NewReader(moved), int64(len(moved))); !errors.Is(err, ErrMetadata) {
		t.Errorf("IPIB elsewhere: %v", err)
	}
	clear(moved[MetadataAddr : MetadataAddr+metadataSize])
	img, err = Open(bytes.NewReader(moved), int64(len(moved)))
	if err != nil || !img.Legacy || img.IPIBAddr != made.IPIBAddr {
		t.Errorf("without metadata: %+v %v", img, err)
	}
	moved = bytes.Clone(out.b)
	moved[MetadataAddr+19] = 2
	if _, err := Open(bytes.NewReader(moved), int64(len(moved))); !errors.Is(err, ErrNotImage) {
		t.Errorf("another version of metadata: %v", err)
	}
	// A header alone, as pvextract-hdr gives it.
	alone := made.Header.Marshal()
	img, err = OpenHeader(bytes.NewReader(alone), int64(len(alone)))
	if err != nil || !reflect.DeepEqual(img.Header, made.Header) {
		t.Errorf("header alone: %v", err)
	}
}

func TestOpenRefusals(t *testing.T) {
	t.Parallel()
	var out buffer
	if _, err := Create(t.Context(), &out, spec(t)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 100, MetadataAddr, MinHeaderAddr, MinHeaderAddr + 100, len(out.b) / 2, len(out.b) - 1} {
		if _, err := Open(bytes.NewReader(out.b[:n]), int64(n)); err == nil {
			t.Errorf("first %d bytes are an image", n)
		}
	}
	other := bytes.Repeat([]byte("text "), 50000)
	if _, err := Open(bytes.NewReader(other), int64(len(other))); !errors.Is(err, ErrNotImage) {
		t.Errorf("text: %v", err)
	}
	// A file that the size lies about.
	if _, err := Open(bytes.NewReader(out.b[:0x15000]), int64(len(out.b))); err == nil {
		t.Errorf("shorter than its size: %v", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(sampleHeader(f).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil && !bytes.Equal(h.Marshal(), b[:h.Size()]) {
			t.Error("parsed header re-encodes to other bytes")
		}
	})
}

func FuzzParseIPIB(f *testing.F) {
	block := (&IPIB{Components: []IPIBComponent{{TweakPrefix: 1, Addr: 0x16000, Size: PageSize}}}).Marshal()
	f.Add(block)
	f.Add(legacyIPIB(block))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseIPIB(b); err == nil && !bytes.Equal(p.Marshal(), b[:p.Size()]) {
			t.Error("parsed IPIB re-encodes to other bytes")
		}
	})
}

func FuzzOpen(f *testing.F) {
	head := make([]byte, 0x16000)
	copy(head[MetadataAddr:], Metadata{0x14000, 0x15000}.marshal())
	f.Add(head[MetadataAddr:MetadataAddr+metadataSize], []byte(HeaderMagic))
	f.Fuzz(func(t *testing.T, meta, header []byte) {
		b := bytes.Clone(head)
		copy(b[MetadataAddr:], meta)
		copy(b[0x14000:], header)
		if img, err := Open(bytes.NewReader(b), int64(len(b))); err == nil && img.Header == nil {
			t.Error("an image without a header")
		}
	})
}

func BenchmarkCreate(b *testing.B) {
	initrd := make([]byte, 16<<20)
	s := spec(b)
	b.SetBytes(int64(len(initrd)))
	for b.Loop() {
		s.Kernel, s.Initrd = source(testKernel()), source(initrd)
		if _, err := Create(b.Context(), discard{}, s); err != nil {
			b.Fatal(err)
		}
	}
}

// discard takes writes and keeps nothing.
type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
