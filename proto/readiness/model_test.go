package readiness

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/secexec/secexec/proto/workload"
)

// wire is one direction of a connection that an enemy has.
type wire struct {
	r       *rand.Rand
	hostile bool
	flight  [][]byte
}

func (w *wire) send(b []byte) {
	if !w.hostile {
		w.flight = append(w.flight, b)
		return
	}
	switch w.r.IntN(8) {
	case 0: // lost
	case 1:
		w.flight = append(w.flight, b, b)
	case 2:
		w.flight = append(w.flight, b[:w.r.IntN(len(b)+1)])
	case 3:
		junk := make([]byte, w.r.IntN(3*MaxLine))
		for i := range junk {
			junk[i] = byte(w.r.Uint32())
		}
		w.flight = append(w.flight, junk, b)
	case 4: // half now, half later
		n := w.r.IntN(len(b) + 1)
		w.flight = append(w.flight, b[:n], b[n:])
	default:
		w.flight = append(w.flight, b)
	}
	if w.r.IntN(4) == 0 {
		w.r.Shuffle(len(w.flight), func(i, j int) { w.flight[i], w.flight[j] = w.flight[j], w.flight[i] })
	}
}

func (w *wire) take() []byte {
	if len(w.flight) == 0 {
		return nil
	}
	b := w.flight[0]
	w.flight = w.flight[1:]
	return b
}

// world is both ends, an enemy between them, and what must always hold.
type world struct {
	t        *testing.T
	r        *rand.Rand
	g        *Guest
	h        *Host
	out      Outbox
	up, down wire // to the host, to the guest
	now      uint64

	signed   map[[NonceSize]byte]bool
	asked    map[[NonceSize]byte]bool
	offs     int // POWEROFF that the host sent or the enemy could copy
	stops    int
	restarts int
	told     []Message
	taken    int // answers within a second
	second   uint64
}

func (w *world) host(messages []Message) {
	for _, m := range messages {
		switch m := m.(type) {
		case PowerOff:
			w.offs++
		case Challenge:
			w.asked[m.Nonce] = true
		}
		w.down.send(append([]byte(m.String()), '\n'))
	}
}

func (w *world) guest(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Sign:
			if w.signed[e.Nonce] = true; !w.asked[e.Nonce] {
				w.t.Fatal("signs a nonce that nobody sent")
			}
			if w.now/1000 != w.second {
				w.second, w.taken = w.now/1000, 0
			}
			if w.taken++; w.taken > 2*perSecond {
				w.t.Fatalf("%d signatures in a second", w.taken)
			}
			w.out.Put(Report{append([]byte("signed "), e.Nonce[:]...)})
		case Stop:
			if w.stops++; w.offs == 0 {
				w.t.Fatal("stops the workload, and nobody asked")
			}
		case Restart:
			w.restarts++
		case Message:
			w.out.Put(e)
		}
	}
	if w.out.size > MaxOut || len(w.g.rest) > maxRead || cap(w.g.lines.buf) > 2*MaxLine || len(w.g.stages) > maxGuestStage {
		w.t.Fatalf("guest holds %d bytes out, %d in, a line of %d", w.out.size, len(w.g.rest), cap(w.g.lines.buf))
	}
}

// step lets some of what can happen next happen.
func (w *world) step() {
	w.now += uint64(w.r.IntN(200))
	w.guest(w.g.Tick(w.now))
	if w.g.Wants(w.now) {
		if b := w.down.take(); len(b) > 0 {
			w.guest(w.g.Read(b[:min(len(b), maxRead)], w.now))
		}
	}
	for b := w.out.Pending(); b != nil; b = w.out.Pending() {
		n := w.r.IntN(len(b)) + 1
		w.up.send(bytes.Clone(b[:n]))
		w.out.Wrote(n)
		if w.r.IntN(3) == 0 {
			break
		}
	}
	for range 3 {
		b := w.up.take()
		for _, m := range w.h.Read(b) {
			w.check(m)
			w.told = append(w.told, m)
		}
		if cap(w.h.lines.buf) > 2*MaxLine {
			w.t.Fatalf("host holds a line of %d", cap(w.h.lines.buf))
		}
	}
}

// check wants what the host is told to be true: the enemy of this test loses,
// copies and cuts, but writes no lines of its own.
func (w *world) check(m Message) {
	switch m := m.(type) {
	case Stage:
		if !slices.ContainsFunc(w.g.Stages(), func(s Stage) bool { return s.Name == m.Name }) {
			w.t.Fatalf("told of %s, which was not passed", m)
		}
	case Exit:
		if w.g.State() != Ended {
			w.t.Fatal("told of an end that was none")
		}
	case Report:
		// Parts of two reports may make a third, which its asker finds out by the
		// signature; but for this nonce there was one.
		for nonce := range w.signed {
			if bytes.Contains(m.COSE, nonce[:]) {
				return
			}
		}
		w.t.Fatal("told of a report that was not made")
	}
}

func (w *world) reconnect() {
	w.h.Lost()
	w.g.HungUp()
	w.out.HungUp()
	if b := w.out.Pending(); b != nil { // the rest of a line begun goes to the new connection
		w.out.Wrote(len(b))
		w.up.flight = [][]byte{bytes.Clone(b)}
	} else {
		w.up.flight = nil
	}
	w.down.flight = nil
	w.host(w.h.Connected())
}

// Both ends over a wire that loses, doubles, reorders, cuts and floods: nothing
// false is told or done, what is held is bounded, and once the wire is good again
// the host knows all.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 8))
		w := &world{
			t: t, r: r, h: &Host{}, signed: make(map[[NonceSize]byte]bool), asked: make(map[[NonceSize]byte]bool),
			g:  NewGuest([IDSize]byte{1}, r.IntN(2) == 0, r.IntN(2) == 0, []Stage{{StageKernel, 1}, {StageHandover, 2}}),
			up: wire{r: r, hostile: true}, down: wire{r: r, hostile: true},
		}
		w.host(w.h.Connected())
		for range 150 {
			switch r.IntN(20) {
			case 0:
				w.reconnect()
			case 1:
				var nonce [NonceSize]byte
				for i := range nonce {
					nonce[i] = byte(r.Uint32())
				}
				w.host(w.h.Ask(nonce))
			case 2:
				if r.IntN(4) == 0 {
					w.host(w.h.PowerOff())
				}
			case 3:
				w.guest(w.g.HandedOver(w.now))
			case 4:
				w.guest(w.g.Notified(workload.Notification{Ready: r.IntN(2) == 0, Alive: r.IntN(2) == 0, Trouble: r.IntN(8) == 0}, w.now))
			case 5:
				w.h.Forget()
			}
			w.step()
		}
		// A good wire.
		w.up.hostile, w.down.hostile = false, false
		w.guest(w.g.HandedOver(w.now))
		w.guest(w.g.Notified(workload.Notification{Ready: true}, w.now))
		w.guest(w.g.Done(7))
		w.now += 1000
		w.reconnect()
		w.told = nil
		last := [NonceSize]byte{0xff, 0xee}
		w.host(w.h.Ask(last))
		for range 100 {
			w.step()
		}
		var reported, exited bool
		stages := 0
		for _, m := range w.told {
			switch m := m.(type) {
			case Stage:
				stages++
			case Exit:
				exited = m.Status == 7
			case Report:
				reported = bytes.Contains(m.COSE, last[:])
			}
		}
		if !reported || !exited || stages < len(w.g.Stages()) {
			t.Fatalf("seed %d: on a good wire the host is told %v (report %v, exit %v)", seed, w.told, reported, exited)
		}
	}
}

func FuzzGuest(f *testing.F) {
	f.Add([]byte("HELLO 2 hostagent\nPING 01\n"), []byte("READY=1"), uint8(9))
	f.Add([]byte("POWEROFF\nPOWEROFF\nCHALLENGE 00\n"), []byte("WATCHDOG_USEC=100000\nWATCHDOG=1"), uint8(1))
	f.Add(bytes.Repeat([]byte("PING 0\n"), 200), []byte("STATUS=\x1b"), uint8(255))
	f.Fuzz(func(t *testing.T, stream, note []byte, size uint8) {
		g := NewGuest([IDSize]byte{}, true, false, nil)
		now, work := uint64(0), 0
		g.HandedOver(now)
		if n, err := workload.ParseNotification(note); err == nil {
			g.Notified(n, now)
		}
		for chunk := range slices.Chunk(stream, int(size)+1) {
			for !g.Wants(now) {
				at, ok := g.Next(now)
				if !ok {
					t.Fatal("waits for ever with lines to take")
				}
				now, work = max(at, now), 0
				work += len(g.Tick(now))
			}
			work += len(g.Read(chunk, now))
			if work > perSecond*(len(Stages)+5)+1 || len(g.rest) > maxRead || len(g.lines.buf) >= MaxLine {
				t.Fatalf("%d effects at once, %d bytes held", work, len(g.rest))
			}
		}
	})
}

func FuzzHost(f *testing.F) {
	f.Add([]byte("HELLO 2 guestagent 00\nSTAGE ready 1\nPONG 01\nEXIT 1\n"), uint8(3))
	f.Add([]byte("REPORT AQID\nFAIL G101 1\n"), uint8(255))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		var h Host
		h.Connected()
		h.Ask([NonceSize]byte{})
		reports := 0
		for chunk := range slices.Chunk(stream, int(size)+1) {
			for _, m := range h.Read(chunk) {
				if _, is := m.(Report); is {
					reports++
				}
			}
			if len(h.lines.buf) >= MaxLine {
				t.Fatalf("holds %d bytes", len(h.lines.buf))
			}
		}
		if talked, _ := h.Version(); reports > 1 || talked < 1 || talked > Version {
			t.Fatalf("%d reports to one question, talks version %d", reports, talked)
		}
	})
}
