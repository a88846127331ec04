package ultravisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/xts"
)

// plainText compares a component's place in guest memory with a part.
func plainText(t *testing.T, s *sealed, mem RAM) {
	t.Helper()
	for i, want := range [][]byte{s.kernel, s.initrd, append(s.cmdline[:len(s.cmdline):len(s.cmdline)], 0)} {
		c := s.summary.IPIB.Components[i]
		got := mem[c.Addr : c.Addr+c.Size]
		if !bytes.Equal(got[:len(want)], want) || len(bytes.TrimRight(got[len(want):], "\x00")) > 0 {
			t.Errorf("component %d at 0x%x is not what was sealed", i, c.Addr)
		}
	}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	s := common()
	for n := range 2 {
		mem := s.ram()
		psw, err := unpack(New(host(t, n)), mem, s.summary.IPIBAddr)
		if err != nil {
			t.Fatalf("host %d: %v", n, err)
		}
		start := s.summary.IPIB.Components[3].Addr
		if psw != (seimage.PSW{Mask: seimage.MaskBAEA, Addr: start}) {
			t.Errorf("host %d: PSW %x, wants stage3b at 0x%x", n, psw, start)
		}
		plainText(t, s, mem)
		// All that is not a component is as it was.
		first, ipib := s.summary.IPIB.Components[0].Addr, s.summary.IPIBAddr
		if !bytes.Equal(mem[:first], s.bytes[:first]) || !bytes.Equal(mem[ipib:len(s.bytes)], s.bytes[ipib:]) {
			t.Errorf("host %d: memory outside of the components changed", n)
		}
	}
}

func TestUnpackPlainComponents(t *testing.T) {
	t.Parallel()
	pcf := seimage.DefaultFlags | seimage.NoEncryption
	s := seal(t, func(spec *seimage.Spec) { spec.PCF = &pcf })
	mem := s.ram()
	if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); err != nil {
		t.Fatal(err)
	}
	plainText(t, s, mem)
	mem = s.ram()
	mem[s.summary.IPIB.Components[0].Addr]++
	if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); !errors.As(err, new(*Refusal)) {
		t.Errorf("plain components are not verified: %v", err)
	}
}

// Every check of firmware's, each alone: all else about the image is right. The
// whole result register is compared, as stage3a prints it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := common()
	at := s.summary.HeaderAddr
	reseal := func(change func(*seimage.Header, *seimage.Secrets)) func(*testing.T, RAM) {
		return func(t *testing.T, mem RAM) { s.reseal(t, mem, change) }
	}
	set := func(offset uint64, b ...byte) func(*testing.T, RAM) {
		return func(_ *testing.T, mem RAM) { copy(mem[offset:], b) }
	}
	ipib := s.summary.IPIBAddr
	comp := func(i int) uint64 { return ipib + 136 + 24*uint64(i) }
	for _, test := range []struct {
		name   string
		change func(*testing.T, RAM)
		result uint64
		is     error
	}{
		{"header magic", set(at, 'X'), 0x0002_0000_010a_0a02, seimage.ErrHeaderMagic},
		{"header version", set(at+8, 0, 0, 2, 0), 0x0002_0001_0104_0a02, seimage.ErrHeaderVersion},
		{"header size", set(at+12, 0, 0, 0, 0), 0x0002_0031_010a_0a02, seimage.ErrHeaderSize},
		{"header size is not the IPIB's", set(ipib+128, 0, 0, 0, 0, 0, 0, 0x20, 0), 0x0002_0031_010a_0a02, seimage.ErrHeaderSize},
		{"header shorter in the IPIB", set(ipib+128, 0, 0, 0, 0, 0, 0, 1, 0xff), 0x0002_0031_010a_0a02, seimage.ErrHeaderSize},
		{"no key slot", set(at+32, 0, 0, 0, 0, 0, 0, 0, 0), 0x0002_0040_010a_0a02, seimage.ErrNoSlots},
		{"encrypted area too small", set(at+40, 0, 0, 0, 0, 0, 0, 0, 127), 0x0002_0039_010a_0a02, seimage.ErrEncryptedSize},
		{"header reserved", set(at+28, 1), 0x0002_0000_010a_0a02, seimage.ErrReserved},
		{"header tag", set(at+uint64(s.summary.Header.Size())-1, ^s.summary.Header.Tag[15]), 0x0002_0000_010a_0a02, seimage.ErrHeaderTag},
		{"unknown plain-text flag", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.PCF |= 1 }), 0x0002_0030_0106_0a02, nil},
		{"unknown secret flag", reseal(func(_ *seimage.Header, x *seimage.Secrets) { x.SCF |= 1 }), 0x0002_0000_0109_0a02, nil},
		{"customer key not on the curve", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.CustomerKey[159]++ }), 0x0002_000b_0108_0a02, seimage.ErrCustomerKey},
		{"header a slot shorter than the IPIB says", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.Slots = h.Slots[1:] }), 0x0002_0031_010a_0a02, seimage.ErrHeaderSize},
		{"this host's slot", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.Slots[0].Wrapped[0]++ }), 0x0002_0000_0108_0a02, seimage.ErrSlotTag},
		{"optional items", func(t *testing.T, mem RAM) {
			s.resealRaw(t, mem, func(b []byte) []byte { b[123] = 1; return append(b, make([]byte, 32)...) })
		}, 0x0002_0039_010a_0a02, seimage.ErrOptionalItems},
		{"secret area reserved", func(t *testing.T, mem RAM) {
			s.resealRaw(t, mem, func(b []byte) []byte { b[127] = 1; return b })
		}, 0x0002_0000_010a_0a02, seimage.ErrReserved},
		{"page count", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.NEP++ }), 0x0004_001d_0102_0a02, nil},
		{"address digest", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.ALD[0]++ }), 0x0004_001a_0102_0a02, nil},
		{"page digest", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.PLD[0]++ }), 0x0004_001b_0102_0a02, nil},
		{"tweak digest", reseal(func(h *seimage.Header, _ *seimage.Secrets) { h.TLD[0]++ }), 0x0004_001c_0102_0a02, nil},
		{"page", func(_ *testing.T, mem RAM) { mem[ipib-1]++ }, 0x0004_001b_0102_0a02, nil},
		{"component moved", set(comp(3)+8, 0, 0, 0, 0, 0, 0x40), 0x0003_0000_0005_0a02, nil},
		{"component one page up", func(_ *testing.T, mem RAM) { mem[comp(3)+14] += 0x10 }, 0x0004_001a_0102_0a02, nil},
		{"component tweak", func(_ *testing.T, mem RAM) { mem[comp(3)+7]++ }, 0x0004_001c_0102_0a02, nil},
		{"component left out", set(ipib+116, 0, 0, 0, 3), 0x0004_001d_0102_0a02, nil},
		{"IPIB version", set(ipib+7, 0), 0x0402, seimage.ErrIPIB},
		{"IPIB of another type", set(ipib+12, 0), 0x0402, seimage.ErrIPIB},
		{"IPIB without components", set(ipib+116, 0, 0, 0, 0), 0x0402, seimage.ErrIPIB},
		{"IPIB tweaks not increasing", set(comp(1)+1, 0), 0x0402, seimage.ErrIPIB},
		{"component not on a page", set(comp(0)+15, 1), 0x0402, seimage.ErrIPIB},
		{"SE header too long", set(ipib+128, 0, 0, 0, 0, 0, 0, 0x20, 1), 0x0402, seimage.ErrIPIB},
		{"SE header outside of memory", set(ipib+120, 0, 0x40), 0x0402, seimage.ErrIPIB},
		{"SE header beyond 2^63", set(ipib+120, 0xff), 0x0402, seimage.ErrIPIB},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mem := s.ram()
			test.change(t, mem)
			before := bytes.Clone(mem)
			psw, err := unpack(New(host(t, 0)), mem, ipib)
			var r *Refusal
			if !errors.As(err, &r) {
				t.Fatalf("error %v, wants a refusal", err)
			}
			if got := r.Result(); got != test.result {
				t.Errorf("result 0x%016x, wants 0x%016x (%v)", got, test.result, err)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v, wants one of %v", err, test.is)
			}
			if r.Words == "" {
				t.Error("no words")
			}
			known(t, r)
			if psw != (seimage.PSW{}) || !bytes.Equal(mem, before) {
				t.Error("the refused image left its mark on memory or PSW")
			}
		})
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	one := common() // hosts 0 and 1
	backups := seimage.DefaultFlags | seimage.BackupKeys
	allowed := seal(t, func(spec *seimage.Spec) { spec.PCF = &backups; spec.Hosts = spec.Hosts[1:] })
	for _, test := range []struct {
		name   string
		image  *sealed
		uv     *Ultravisor
		result uint64 // 0: admitted
	}{
		{"first host", one, New(host(t, 0)), 0},
		{"second host", one, New(host(t, 1)), 0},
		{"no slot", one, New(host(t, 2)), 0x0002_0005_0108_0a02},
		{"no slot for host and backup", allowed, New(host(t, 2), host(t, 0)), 0x0002_0005_0108_0a02},
		{"slot for the backup, not allowed", one, New(host(t, 2), host(t, 1)), 0x0002_0034_0108_0a02},
		{"slot for the backup, allowed", allowed, New(host(t, 2), host(t, 0), host(t, 1)), 0},
		{"slot for the host, backup not asked", one, New(host(t, 0), host(t, 1)), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := unpack(test.uv, test.image.ram(), test.image.summary.IPIBAddr)
			var r *Refusal
			switch {
			case test.result == 0 && err != nil:
				t.Errorf("refused: %v", err)
			case test.result != 0 && (!errors.As(err, &r) || r.Result() != test.result):
				t.Errorf("error %v, wants result 0x%016x", err, test.result)
			}
			if r != nil {
				known(t, r)
			}
		})
	}
}

func TestSetParameters(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	u := New(host(t, 0))
	var r *Refusal
	if _, err := u.Unpack(mem); !errors.As(err, &r) || r.Result() != 0x0902 {
		t.Errorf("unpack without an IPIB: %v", err)
	}
	if err := u.SetParameters(mem, s.summary.IPIBAddr); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []uint64{s.summary.IPIBAddr + 8, 0, uint64(len(mem)) + 4096, 1 << 63, ^uint64(0) &^ 4095} {
		if err := u.SetParameters(mem, addr); !errors.As(err, &r) || r.Result() != 0x0402 || r.Command != CommandNone {
			t.Errorf("IPIB at 0x%x: %v", addr, err)
		}
	}
	// The one that was set before stays.
	if _, err := u.Unpack(mem); err != nil {
		t.Error(err)
	}
}

// broken is memory that fails to be read or written at an address.
type broken struct {
	RAM
	read, write int64
}

var errBroken = errors.New("broken memory")

func (m broken) ReadAt(b []byte, at int64) (int, error) {
	if at <= m.read && m.read < at+int64(len(b)) {
		return 0, errBroken
	}
	return m.RAM.ReadAt(b, at)
}

func (m broken) WriteAt(b []byte, at int64) (int, error) {
	if at <= m.write && m.write < at+int64(len(b)) {
		return 0, errBroken
	}
	return m.RAM.WriteAt(b, at)
}

// A fault of the memory is no refusal: the image may be right.
func TestBrokenMemory(t *testing.T) {
	t.Parallel()
	s := common()
	first := int64(s.summary.IPIB.Components[0].Addr)
	for name, m := range map[string]broken{
		"IPIB":         {s.ram(), int64(s.summary.IPIBAddr), -1},
		"header":       {s.ram(), int64(s.summary.HeaderAddr), -1},
		"pages":        {s.ram(), first, -1},
		"pages' write": {s.ram(), -1, first},
	} {
		u := New(host(t, 0))
		err := u.SetParameters(m, s.summary.IPIBAddr)
		if err == nil {
			_, err = u.Unpack(m)
		}
		if !errors.Is(err, errBroken) || errors.As(err, new(*Refusal)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRAM(t *testing.T) {
	t.Parallel()
	m := RAM("0123456789")
	for _, at := range []int64{-1, 10, 11, 1 << 62} {
		if n, err := m.ReadAt(make([]byte, 1), at); n != 0 || err != io.EOF {
			t.Errorf("read at %d: %d, %v", at, n, err)
		}
	}
	b := make([]byte, 4)
	if n, err := m.ReadAt(b, 8); n != 2 || err != io.EOF || string(b[:2]) != "89" {
		t.Errorf("read at the end: %d, %v, %q", n, err, b)
	}
	for _, at := range []int64{-1, 7, 11, 1<<63 - 1} {
		if n, err := m.WriteAt(b, at); n != 0 || !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("write at %d: %d, %v", at, n, err)
		}
	}
	if n, err := m.WriteAt([]byte("x"), 9); n != 1 || err != nil || string(m) != "012345678x" {
		t.Errorf("write: %d, %v, %q", n, err, m)
	}
}

// An image key with equal halves is weak, yet an image of others' that has one
// must open: KM-XTS-AES-256 does not look either.
func TestEqualHalves(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	s.reseal(t, mem, func(_ *seimage.Header, x *seimage.Secrets) { x.ImageKey = make(secret.Bytes, seimage.ImageKeySize) })
	if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); err != nil {
		t.Error(err)
	}
}

// No key of an image shows in what a refusal or an Ultravisor prints.
func TestPrintsNoKey(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	o, err := New(host(t, 0)).admit(mem, s.summary.IPIB)
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Clone(o.secrets.ImageKey)
	for _, text := range []string{fmt.Sprintf("%v", o.secrets), fmt.Sprintf("%+v", o.secrets), fmt.Sprintf("%x", o.secrets)} {
		if bytes.Contains([]byte(text), fmt.Appendf(nil, "%x", key[:8])) || bytes.Contains([]byte(text), fmt.Appendf(nil, "%d %d %d", key[0], key[1], key[2])) {
			t.Errorf("secrets print as %s", text)
		}
	}
	held, cipher := o.secrets, o.cipher
	o.wipe()
	if *cipher != (xts.Decrypter{}) {
		t.Error("round keys are there after wipe")
	}
	if !bytes.Equal(held.ImageKey, make([]byte, 64)) || !bytes.Equal(held.CommKey, make([]byte, 32)) || o.cipher != nil {
		t.Error("keys are there after wipe")
	}
}
