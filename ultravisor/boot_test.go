package ultravisor

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/ultravisor/gdb"
)

// facilities is where the fake guests' STFLE stores its list.
const facilities = 0x6000

// stage3aRun is how stage3a goes: STFLE, subcode 8, subcode 10. All registers
// are set, so that those that must be zeroed are seen to be.
func stage3aRun(t *testing.T, s *sealed, mem RAM) (events []event, stfle, diag8, diag10 uint64) {
	t.Helper()
	traps, err := findTraps(mem)
	if err != nil {
		t.Fatal(err)
	}
	var at []uint64
	for addr, w := range traps {
		if w.stfle() {
			stfle = addr
			continue
		}
		at = append(at, addr)
	}
	slices.Sort(at)
	if len(at) != 2 || stfle == 0 {
		t.Fatalf("stage3a calls DIAGNOSE at %x and STFLE at %x", at, stfle)
	}
	diag8, diag10 = at[0], at[1]
	regs := func(w instruction, subcode uint64) map[int]uint64 {
		m := make(map[int]uint64)
		for r := range 16 {
			m[r] = 0xdead0000 + uint64(r)
		}
		m[int(w>>16&15)] = subcode
		m[int(w>>20&15)] = s.summary.IPIBAddr
		return m
	}
	w := traps[stfle]
	first := regs(0, 0)
	first[0] = 2
	first[int(w>>12&15)] = facilities - uint64(w&0xfff)
	return []event{
		{addr: stfle, regs: first}, {addr: diag8, regs: regs(traps[diag8], subcodeSetParams)}, {addr: diag10, regs: regs(traps[diag10], subcodeUnpack)},
	}, stfle, diag8, diag10
}

// bootFake boots the fake guest with the key of a test host.
func bootFake(t *testing.T, q *fakeQEMU, key int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := New(host(t, key)).Boot(ctx, q.start(), q.mem, slog.New(slog.DiscardHandler))
	q.wait() // Boot has closed the connection
	return err
}

func TestBoot(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	events, stfle, _, diag10 := stage3aRun(t, s, mem)
	q := &fakeQEMU{t: t, mem: mem, events: events}
	if err := bootFake(t, q, 0); err != nil {
		t.Fatal(err)
	}
	if !q.detached || len(q.traps) != 0 {
		t.Errorf("detached %v, breakpoints left %v", q.detached, q.traps)
	}
	want := [18]uint64{regMask: seimage.MaskBAEA, regAddr: s.summary.IPIB.Components[3].Addr}
	if q.regs != want {
		t.Errorf("registers %x, want %x", q.regs, want)
	}
	if !slices.Equal(q.stepped, []uint64{stfle}) {
		t.Errorf("the machine ran %x itself, wants only STFLE at 0x%x", q.stepped, stfle)
	}
	// The list is what the machine stored, but for this one bit.
	for i, b := range mem[facilities : facilities+24] {
		if b != 0xff {
			t.Errorf("byte %d of the facility list is 0x%02x", i, b)
		}
	}
	if b := mem[facilities+24]; b != 0 {
		t.Errorf("the byte behind the facility list is 0x%02x", b)
	}
	if got := instruction(binary.BigEndian.Uint32(mem[diag10:])); !got.diag308() {
		t.Error("stage3a was changed")
	}
	plainText(t, s, mem)
}

// What stage3a is told, and that it runs on to print it.
func TestBootRefused(t *testing.T) {
	t.Parallel()
	s := common()
	for _, test := range []struct {
		name   string
		key    int
		change func(RAM)
		unpack bool // refused by subcode 10, else by 8
		result uint64
	}{
		{"wrong host", 2, func(RAM) {}, true, 0x0002_0005_0108_0a02},
		{"flipped page", 0, func(m RAM) { m[s.summary.IPIBAddr-1] ^= 1 }, true, pagesBad},
		{"flipped header", 0, func(m RAM) { m[s.summary.HeaderAddr+20] ^= 1 }, true, tagBad},
		{"bad IPIB", 0, func(m RAM) { m[s.summary.IPIBAddr+7] ^= 1 }, false, invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mem := s.ram()
			events, _, diag8, diag10 := stage3aRun(t, s, mem)
			test.change(mem)
			q := &fakeQEMU{t: t, mem: mem, events: events}
			err := bootFake(t, q, test.key)
			var r *Refusal
			if !errors.As(err, &r) || r.Result() != test.result {
				t.Fatalf("error %v, wants result 0x%016x", err, test.result)
			}
			at := diag8
			if test.unpack {
				at = diag10
			}
			w := instruction(binary.BigEndian.Uint32(mem[at:]))
			if got := q.regs[regGeneral+int(w>>20&15)+1]; got != test.result {
				t.Errorf("stage3a reads 0x%016x, wants 0x%016x", got, test.result)
			}
			if q.regs[regAddr] != at+4 || !q.detached || len(q.traps) != 0 {
				t.Errorf("goes on at 0x%x, detached %v, breakpoints %v", q.regs[regAddr], q.detached, q.traps)
			}
		})
	}
}

// Calls that are not the ultravisor's go to the machine.
func TestBootLeavesTheRestToTheMachine(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	events, stfle, diag8, _ := stage3aRun(t, s, mem)
	w := instruction(binary.BigEndian.Uint32(mem[diag8:]))
	for subcode := range uint64(12) {
		if subcode != subcodeSetParams && subcode != subcodeUnpack {
			events = slices.Insert(events, 1, event{addr: diag8, regs: map[int]uint64{int(w >> 16 & 15): subcode}})
		}
	}
	// An odd register pair is an exception of the machine's.
	odd := uint64(seimage.Stage3aAddr + 0x800)
	binary.BigEndian.PutUint32(mem[odd:], uint32(w)|1<<20)
	events = slices.Insert(events, 1, event{addr: odd, regs: events[len(events)-1].regs})
	q := &fakeQEMU{t: t, mem: mem, events: events}
	if err := bootFake(t, q, 0); err != nil {
		t.Fatal(err)
	}
	want := append([]uint64{stfle, odd}, slices.Repeat([]uint64{diag8}, 10)...)
	if !slices.Equal(q.stepped, want) {
		t.Errorf("the machine ran %x itself, wants %x", q.stepped, want)
	}
}

func TestBootFacilityList(t *testing.T) {
	t.Parallel()
	s := common()
	for _, test := range []struct {
		name   string
		list   func(mem RAM) uint64
		asked  uint64
		reach  bool
		inside bool
	}{
		{"three doublewords", func(RAM) uint64 { return facilities }, 2, true, true},
		{"many", func(RAM) uint64 { return facilities }, 255, true, true},
		{"only the low byte counts", func(RAM) uint64 { return facilities }, 0xffff_ff02, true, true},
		{"two doublewords", func(RAM) uint64 { return facilities }, 1, false, true},
		{"at the end of memory", func(mem RAM) uint64 { return uint64(len(mem)) - 8 }, 2, true, false},
		{"beyond memory", func(RAM) uint64 { return 1 << 63 }, 2, true, false},
		{"at the very end of addresses", func(RAM) uint64 { return ^uint64(0) - 7 }, 2, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mem := s.ram()
			events, stfle, _, _ := stage3aRun(t, s, mem)
			w := instruction(binary.BigEndian.Uint32(mem[stfle:]))
			list := test.list(mem)
			events[0].regs[int(w>>12&15)] = list - uint64(w&0xfff)
			events[0].regs[0] = test.asked
			q := &fakeQEMU{t: t, mem: mem, events: events[:1], last: "W00"}
			if err := bootFake(t, q, 0); !errors.Is(err, gdb.ErrExited) {
				t.Fatal(err)
			}
			if !test.inside {
				return // it is enough that nothing broke
			}
			if got := mem[list+20]&0x40 != 0; got != test.reach {
				t.Errorf("facility 161 shown: %v, wants %v", got, test.reach)
			}
		})
	}
}

func TestBootFailures(t *testing.T) {
	t.Parallel()
	s := common()
	for _, test := range []struct {
		name   string
		change func(q *fakeQEMU)
		err    error
	}{
		{"guest ends", func(q *fakeQEMU) { q.events, q.last = q.events[:1], "W00" }, gdb.ErrExited},
		{"QEMU dies", func(q *fakeQEMU) { q.events = q.events[:1] }, gdb.ErrExited},
		{"guest panics", func(q *fakeQEMU) { q.events, q.last = nil, "T8fthread:p01.01;" }, gdb.ErrStopped},
		{"operator pauses it", func(q *fakeQEMU) { q.events, q.last = q.events[:2], "T02thread:p01.01;" }, gdb.ErrStopped},
		{"stops where no breakpoint is", func(q *fakeQEMU) { q.events, q.last = nil, "T05thread:p01.01;" }, gdb.ErrStopped},
		{"nonsense", func(q *fakeQEMU) { q.events, q.last = nil, "hello" }, gdb.ErrProtocol},
		{"no stage3a", func(q *fakeQEMU) { clear(q.mem[seimage.Stage3aAddr:s.summary.HeaderAddr]) }, ErrStage3a},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mem := s.ram()
			events, _, _, _ := stage3aRun(t, s, mem)
			q := &fakeQEMU{t: t, mem: mem, events: events}
			test.change(q)
			err := bootFake(t, q, 0)
			if !errors.Is(err, test.err) || errors.As(err, new(*Refusal)) {
				t.Errorf("error %v, wants %v", err, test.err)
			}
		})
	}
}

// QEMU may die at any packet: an error each time, but where the guest runs
// already.
func TestBootQEMUDiesAtEachStep(t *testing.T) {
	t.Parallel()
	s := common()
	run := func(dieAt int) (*fakeQEMU, error) {
		mem := s.ram()
		events, _, _, _ := stage3aRun(t, s, mem)
		q := &fakeQEMU{t: t, mem: mem, events: events, dieAt: dieAt}
		return q, bootFake(t, q, 0)
	}
	q, err := run(0)
	if err != nil {
		t.Fatal(err)
	}
	all := q.packets
	for n := 1; n < all; n++ {
		if _, err := run(n); !errors.Is(err, gdb.ErrExited) {
			t.Errorf("dead at packet %d of %d: %v", n, all, err)
		}
	}
	if _, err := run(all); err != nil {
		t.Errorf("dead at the last packet, detach: %v", err)
	}
}

// A guest that never gets there holds Boot as long as its context lives.
func TestBootDeadline(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	q := &fakeQEMU{t: t, mem: mem, hang: true}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	conn := q.start()
	if err := New(host(t, 0)).Boot(ctx, conn, mem, slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("the connection is open")
	}
}

// Firmware puts the image into memory that holds nothing at first.
func TestBootDisk(t *testing.T) {
	t.Parallel()
	s := common()
	image := s.ram()
	mem := make(RAM, len(image))
	events, _, _, _ := stage3aRun(t, s, image)
	run := func(events []event, last string) error {
		q := &fakeQEMU{t: t, mem: mem, events: events, last: last}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := New(host(t, 0)).BootDisk(ctx, q.start(), mem, slog.New(slog.DiscardHandler))
		q.wait()
		if err == nil && (!q.detached || len(q.traps) != 0) {
			t.Errorf("detached %v, breakpoints left %v", q.detached, q.traps)
		}
		return err
	}
	load := event{addr: seimage.EntryAddr, do: func() { copy(mem, image) }}
	if err := run(append([]event{load}, events...), ""); err != nil {
		t.Error(err)
	}
	clear(mem)
	if err := run(events, "W00"); !errors.Is(err, gdb.ErrExited) {
		t.Errorf("firmware that loads nothing and ends: %v", err)
	}
	if err := run(append([]event{{addr: seimage.EntryAddr}}, events...), ""); !errors.Is(err, ErrStage3a) {
		t.Errorf("firmware that loads something else: %v", err)
	}
}

func TestFindTraps(t *testing.T) {
	t.Parallel()
	put := func(words map[uint64]uint32) RAM {
		mem := make(RAM, 0x20000)
		copy(mem[0x15000:], seimage.HeaderMagic)
		for at, w := range words {
			binary.BigEndian.PutUint32(mem[at:], w)
		}
		return mem
	}
	many := map[uint64]uint32{}
	for i := range uint64(maxTraps + 1) {
		many[0x11000+4*i] = 0x83240308
	}
	for _, test := range []struct {
		name string
		mem  RAM
		want []uint64
	}{
		{"all kinds", put(map[uint64]uint32{0x11000: 0xb2b0f0a0, 0x11006: 0x83240308, 0x12344: 0x83ef0308}), []uint64{0x11000, 0x11006, 0x12344}},
		{"last before the header", put(map[uint64]uint32{0x14ffc: 0x83240308}), []uint64{0x14ffc}},
		{"only STFLE", put(map[uint64]uint32{0x11000: 0xb2b0f0a0}), nil},
		{"another diagnose", put(map[uint64]uint32{0x11000: 0x8324030c, 0x11004: 0x83241308}), nil},
		{"before stage3a", put(map[uint64]uint32{0x10ffc: 0x83240308}), nil},
		{"behind the header", put(map[uint64]uint32{0x15100: 0x83240308}), nil},
		{"odd address", put(map[uint64]uint32{0x11001: 0x83240308}), nil},
		{"too many", put(many), nil},
		{"no memory", nil, nil},
		{"memory ends in stage3a", put(map[uint64]uint32{0x11ffe: 0x83240308})[:0x12000], nil},
		{"memory ends before stage3a", make(RAM, 0x10ffe), nil},
	} {
		traps, err := findTraps(test.mem)
		var got []uint64
		for at := range traps {
			got = append(got, at)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) || (err == nil) != (len(test.want) > 0) || err != nil && !errors.Is(err, ErrStage3a) {
			t.Errorf("%s: %x, %v; wants %x", test.name, got, err, test.want)
		}
	}
	// Without a header the search ends where headers begin.
	mem := put(map[uint64]uint32{0x13ffc: 0x83240308, 0x14000: 0x83240308})
	clear(mem[0x15000:0x15008])
	if traps, err := findTraps(mem); err != nil || len(traps) != 1 {
		t.Errorf("no header: %x, %v", traps, err)
	}
}
