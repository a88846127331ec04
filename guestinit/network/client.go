package network

import (
	"net/netip"
	"time"
)

// state of a client (RFC 2131, figure 5).
//
//	selecting ──offer──▶ requesting ──ack──▶ bound ──T1──▶ renewing ──T2──▶ rebinding
//	    ▲                    │nak, tries       ▲              │ack │nak        │ack │nak, end
//	    └────────────────────┴─────────────────┼──────────────┴────┼───────────┘    │
//	    ▲                                      └── new lease       │                │
//	    └──────────────────────────────── lease lost ──────────────┴────────────────┘
type state uint8

const (
	selecting state = iota
	requesting
	bound
	renewing
	rebinding
)

// Times between tries.
const (
	firstTry   = time.Second // RFC 2131 says 4; a boot is not to wait so long for one lost packet
	lastTry    = 64 * time.Second
	renewTries = time.Minute // RFC 2131, 4.4.5: at least
	maxRequest = 4           // tries, then from the beginning
)

// client keeps one interface's lease. It is told the time, and does nothing
// but say what is to be done. Times count from any one moment on.
type client struct {
	mac    [macSize]byte
	random func() uint32

	state   state
	lease   Lease         // offered, or held
	xid     uint32        // of the exchange under way
	began   time.Duration // when the exchange began
	sent    time.Duration // when its last message went out
	held    time.Duration // when the request that got the lease went out
	tries   int
	backOff time.Duration
	wake    time.Duration // when tick is to be called
}

// action is what is to be done.
type action struct {
	send []byte     // a DHCP message, or nil
	to   netip.Addr // whom it goes to
	got  bool       // client.lease is held from now on
	lost bool       // the lease that was held is over
}

func newClient(mac [macSize]byte, random func() uint32, now time.Duration) *client {
	c := &client{mac: mac, random: random}
	c.begin(selecting, now)
	return c
}

// listens tells whether an answer may come.
func (c *client) listens() bool { return c.state != bound }

// begin starts an exchange of messages at once.
func (c *client) begin(s state, now time.Duration) {
	c.state, c.tries, c.backOff, c.began, c.wake = s, 0, firstTry, now, now
	if s != requesting { // an offer's number is its request's, too
		c.xid = c.random()
	}
}

// tick is to be called when it is time to wake.
func (c *client) tick(now time.Duration) (a action) {
	if now < c.wake {
		return a
	}
	switch c.state {
	case requesting:
		if c.tries == maxRequest {
			c.begin(selecting, now)
		}
	case bound:
		c.begin(renewing, now)
	case renewing:
		if now >= c.held+c.lease.T2 {
			c.begin(rebinding, now)
		}
	case rebinding:
		if now >= c.held+c.lease.End {
			a.lost = true
			c.begin(selecting, now)
		}
	}
	c.try(now, &a)
	return a
}

// try sends the state's message and says when to do so again.
func (c *client) try(now time.Duration, a *action) {
	q := query{kind: dhcpRequest, xid: c.xid, mac: c.mac, seconds: uint16(min((now-c.began)/time.Second, 0xffff))}
	a.to = everybody
	switch c.state {
	case selecting:
		q.kind = dhcpDiscover
	case requesting:
		q.requested, q.server = c.lease.Address.Addr(), c.lease.Server
	case renewing:
		q.own, a.to = c.lease.Address.Addr(), c.lease.Server
	case rebinding:
		q.own = c.lease.Address.Addr()
	}
	a.send = q.marshal()
	c.sent, c.tries = now, c.tries+1
	switch c.state {
	case renewing:
		c.wake = later(now, c.held+c.lease.T2)
	case rebinding:
		c.wake = later(now, c.held+c.lease.End)
	default:
		c.wake = now + c.spread(c.backOff)
		c.backOff = min(2*c.backOff, lastTry)
	}
}

// later is half of the time that is left, at least a minute, but never past
// the limit (RFC 2131, 4.4.5).
func later(now, limit time.Duration) time.Duration {
	return min(now+max((limit-now)/2, renewTries), limit)
}

// spread makes a time up to a quarter shorter or longer, so that guests that
// start together don't ask together.
func (c *client) spread(d time.Duration) time.Duration {
	return d - d/4 + d/2*time.Duration(c.random()%1024)/1024
}

// receive takes a DHCP message. One that does not fit is passed over.
func (c *client) receive(now time.Duration, raw []byte) (a action) {
	if !c.listens() || c.tries == 0 {
		return a
	}
	m, err := parseMessage(raw, c.xid, c.mac)
	if err != nil {
		return a
	}
	switch {
	case c.state == selecting:
		if m.kind == dhcpOffer {
			c.lease = m.lease
			c.begin(requesting, now)
			c.try(now, &a)
		}
	case c.state == requesting && m.lease.Server != c.lease.Server:
	case m.kind == dhcpNak && c.state == requesting:
		c.refused(now)
	case m.kind == dhcpNak:
		a.lost = true
		c.refused(now)
	case m.kind == dhcpAck && (c.state == requesting || m.lease.Address.Addr() == c.lease.Address.Addr()):
		// The time counts from the request on, so that ours ends before the
		// server's.
		a.got = true
		c.lease, c.held, c.state = m.lease, c.sent, bound
		c.wake = c.held + c.lease.T1
	}
	return a
}

// refused begins anew, but not at once: a server that offers and refuses must
// not keep the guest busy.
func (c *client) refused(now time.Duration) {
	c.begin(selecting, now)
	c.wake = now + c.spread(4*firstTry)
}
