package network

import (
	"encoding/binary"
	"testing"
	"time"
)

// play is a client with a clock and a server of the test's own.
type play struct {
	*testing.T
	c   *client
	now time.Duration
}

func begin(t *testing.T) *play {
	n := uint32(0)
	p := &play{T: t, now: time.Hour}
	p.c = newClient(mac, func() uint32 { n += 512; return n }, p.now)
	return p
}

// next goes to the time at which the client wakes.
func (p *play) next() action {
	p.Helper()
	if p.c.wake < p.now {
		p.Fatalf("wakes at %v, in the past of %v", p.c.wake, p.now)
	}
	p.now = p.c.wake
	a := p.c.tick(p.now)
	if b := p.c.tick(p.now); b.send != nil {
		p.Fatal("one time is two")
	}
	return a
}

// hears answers what was sent last.
func (p *play) hears(kind uint8, own string, options ...[]byte) action {
	return p.c.receive(p.now, said(p.c.xid, kind, own, options...))
}

func kindOf(a action) byte {
	if a.send == nil {
		return 0
	}
	return a.send[bootpSize+4+2]
}

// lease gets a lease of an hour.
func (p *play) lease() {
	p.Helper()
	if a := p.next(); kindOf(a) != dhcpDiscover || a.to != everybody {
		p.Fatalf("begins with %+v", a)
	}
	if a := p.hears(dhcpOffer, "192.0.2.77", good(3600)...); kindOf(a) != dhcpRequest || a.to != everybody {
		p.Fatalf("offer is answered with %+v", a)
	}
	if a := p.hears(dhcpAck, "192.0.2.77", good(3600)...); !a.got || a.send != nil || p.c.listens() || p.c.wake != p.now+30*time.Minute {
		p.Fatalf("bound with %+v until %v", a, p.c.wake-p.now)
	}
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	p := begin(t)
	p.lease()
	held := p.now
	if a := p.c.tick(p.now + 29*time.Minute); a.send != nil {
		t.Error("awake before T1")
	}
	a := p.next()
	if kindOf(a) != dhcpRequest || a.to != addr("192.0.2.1") || p.now != held+30*time.Minute || [4]byte(a.send[12:16]) != [4]byte{192, 0, 2, 77} {
		t.Fatalf("at T1: %+v at %v", a, p.now-held)
	}
	if a := p.hears(dhcpAck, "192.0.2.78", good(3600)...); a.got {
		t.Error("a renewed lease is of another address")
	}
	if a := p.hears(dhcpAck, "192.0.2.77", good(7200)...); !a.got || p.c.wake != p.now+time.Hour {
		t.Errorf("renewed: %+v", a)
	}
}

func TestRebindingAndEnd(t *testing.T) {
	t.Parallel()
	p := begin(t)
	p.lease()
	held := p.now
	sent := 0
	var last time.Duration
	for p.c.state != selecting {
		a := p.next()
		sent++
		if a.send == nil || p.now-last < renewTries/2 && p.now != held+p.c.lease.T2 && p.now != held+p.c.lease.End {
			t.Fatalf("try %d at %v after %v: %+v", sent, p.now-held, last-held, a)
		}
		if want := addr("192.0.2.1"); p.now-held < 3150*time.Second && a.to != want || p.now-held >= 3150*time.Second && a.to != everybody {
			t.Errorf("at %v to %v", p.now-held, a.to)
		}
		if last = p.now; a.lost != (p.now-held >= time.Hour) {
			t.Errorf("at %v: lost is %v", p.now-held, a.lost)
		}
	}
	if p.now != held+time.Hour || sent > 20 {
		t.Errorf("the lease ended after %v and %d tries", p.now-held, sent)
	}
	if a := p.hears(dhcpOffer, "192.0.2.99", good(3600)...); kindOf(a) != dhcpRequest {
		t.Errorf("no new lease: %+v", a)
	}
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	p := begin(t)
	began := p.now
	for try, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 64, 64} {
		before := p.now
		if kindOf(p.next()) != dhcpDiscover {
			t.Fatal("no discover")
		}
		if try > 0 {
			if got, want := p.now-before, want*time.Second/2; got < want*3/4 || try < 7 && got > want*5/4 {
				t.Errorf("try %d after %v", try, got)
			}
		}
	}
	if tries := p.now - began; tries > 5*time.Minute {
		t.Errorf("9 tries took %v", tries)
	}
}

// A server that refuses can't keep the guest busy, nor take what it may not.
func TestRefusals(t *testing.T) {
	t.Parallel()
	p := begin(t)
	began := p.now
	for range 10 {
		p.next()
		p.hears(dhcpOffer, "192.0.2.77", good(3600)...)
		if a := p.hears(dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 9)); p.c.state != requesting || a.lost {
			t.Fatal("another server's refusal counts")
		}
		if a := p.hears(dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 1)); p.c.state != selecting || a.lost || a.send != nil {
			t.Fatalf("refusal: %+v", a)
		}
	}
	if p.now-began < 20*time.Second {
		t.Errorf("10 refusals in %v", p.now-began)
	}
	p.lease()
	if a := p.c.receive(p.now, said(p.c.xid, dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 1))); a.lost {
		t.Error("a refusal out of the blue takes the lease")
	}
	p.next()
	if a := p.hears(dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 1)); !a.lost || p.c.state != selecting {
		t.Errorf("refusal at T1: %+v", a)
	}
}

// An offer whose server is gone is given up after some tries.
func TestServerGone(t *testing.T) {
	t.Parallel()
	p := begin(t)
	p.next()
	p.hears(dhcpOffer, "192.0.2.77", good(3600)...)
	for range maxRequest - 1 {
		if a := p.next(); kindOf(a) != dhcpRequest {
			t.Fatalf("got %+v", a)
		}
	}
	if a := p.next(); kindOf(a) != dhcpDiscover {
		t.Errorf("then %+v", a)
	}
}

// Whatever comes at whatever time, the client's next wake-up is ahead, and it
// holds a lease only between got and lost.
func FuzzClient(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0, 0, 1, 3, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		p, holds := begin(t), false
		for i, s := range steps[:min(len(steps), 200)] {
			var a action
			switch s % 5 {
			case 0:
				a = p.next()
			case 1:
				a = p.hears(dhcpOffer, "192.0.2.77", good(uint32(s)*30)...)
			case 2:
				a = p.hears(dhcpAck, "192.0.2.77", good(uint32(s)*30)...)
			case 3:
				a = p.hears(dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 1))
			case 4:
				raw := said(p.c.xid, s, "192.0.2.77", good(binary.BigEndian.Uint32([]byte{0, s, s, s}))...)
				a = p.c.receive(p.now, raw[:len(raw)-int(s)%len(raw)])
			}
			if a.lost && !holds {
				t.Fatalf("step %d: lost what it did not hold", i)
			}
			holds = (holds || a.got) && !a.lost
			if holds != (p.c.state >= bound) {
				t.Fatalf("step %d: state %d, holds %v", i, p.c.state, holds)
			}
			if p.c.wake < p.now {
				t.Fatalf("step %d: wakes in the past", i)
			}
		}
	})
}
