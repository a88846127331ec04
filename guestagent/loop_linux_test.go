package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakePort is a virtio-serial port as Linux shows it: what the host wrote can be
// read before the kernel has heard that there is a host, and nothing can be
// written until then.
type fakePort struct {
	there bool
	in    string
	out   strings.Builder
}

func (f *fakePort) read(b []byte) (int, error) {
	switch n := copy(b, f.in); {
	case n > 0:
		f.in = f.in[n:]
		return n, nil
	case f.there:
		return -1, unix.EAGAIN
	}
	return 0, nil
}

func (f *fakePort) write(b []byte) (int, error) {
	if !f.there {
		return -1, unix.EAGAIN
	}
	return f.out.Write(b)
}

// woken is what the loop does after an event, until it may sleep again.
func (p *hostPort) woken(a *agent) {
	p.readable = true
	for range 10 {
		if p.turn(a, 0); !p.readable {
			return
		}
	}
}

func portAndAgent(f *fakePort) (*hostPort, *agent) {
	a := newAgent(handoffOf(0xa7, 3), nil, 0, func() {}, nil)
	return &hostPort{read: f.read, write: f.write, open: true}, a
}

// The host's first lines come before the word that it is there.
func TestLinesBeforeTheirHost(t *testing.T) {
	t.Parallel()
	f := &fakePort{}
	p, a := portAndAgent(f)
	p.woken(a) // nobody
	f.in = "HELLO 2 hostagent\nPING 07\n"
	p.woken(a)
	if at := patience(a, p); at != neverAgain {
		t.Errorf("wakes up after %d ms though nobody is there", at)
	}
	f.there = true
	p.woken(a)
	if got := f.out.String(); !strings.HasPrefix(got, "HELLO ") || !strings.HasSuffix(got, "\nPONG 07\n") {
		t.Fatalf("the host hears %q", got)
	}
	f.out.Reset()
	a.do(a.guest.Done(3)) // told to hosts of version 2
	p.woken(a)
	if got := f.out.String(); got != "EXIT 3\nBYE\n" {
		t.Errorf("the host hears %q", got)
	}
}

// What a host that left did not read is not for the next one.
func TestNextHost(t *testing.T) {
	t.Parallel()
	f := &fakePort{there: true, in: "PING 01\nPING 02"}
	p, a := portAndAgent(f)
	p.write = func([]byte) (int, error) { return -1, unix.EAGAIN }
	p.woken(a)
	f.there = false
	p.woken(a)
	p.write = f.write
	f.there, f.in = true, "PING 03\n"
	p.woken(a)
	if got := f.out.String(); strings.Count(got, "PONG") != 1 || !strings.HasSuffix(got, "PONG 03\n") {
		t.Errorf("the next host hears %q", got)
	}
}
