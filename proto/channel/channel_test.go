package channel

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	// Written by hand after the paper: 11 22 00 33 is 03 11 22 02 33.
	f := Frame{Kind: Data, Session: 0x1122003300000001, Payload: []byte{0x44}}
	if got := hex.EncodeToString(f.Bytes()); got != "00"+"04031122"+"0233"+"01"+"01"+"0201"+"03"+"0144"+"00" {
		t.Errorf("frame is %s", got)
	}
	for _, n := range []int{1, 244, 245, 246, 253, 254, 255, 500, 508, 509, MaxPayload} {
		for _, fill := range []byte{0, 7} {
			f := Frame{Kind: Data, Session: ^uint64(0), Payload: bytes.Repeat([]byte{fill}, n)}
			b := f.Bytes()
			if len(b) > maxEncoded+2 || bytes.IndexByte(b[1:len(b)-1], 0) >= 0 {
				t.Fatalf("%d times %d: %d bytes, or a zero within", n, fill, len(b))
			}
			got, err := Parse(b[1 : len(b)-1])
			if err != nil || got.Session != f.Session || !bytes.Equal(got.Payload, f.Payload) {
				t.Errorf("%d times %d: %v", n, fill, err)
			}
		}
	}
	open := Frame{Kind: Open, Session: 5}.Bytes()
	open = open[1 : len(open)-1]
	for name, b := range map[string][]byte{
		"nothing": nil, "short": {1, 1}, "code beyond the end": {9, 1, 2}, "zero": {3, 0, 1}, "zero code": {0},
		"cut": open[:len(open)-1], "more": append(bytes.Clone(open), 2, 2), "too long": bytes.Repeat([]byte{1}, maxEncoded+1),
		"kind 0":       inner(Frame{Kind: 0, Session: 5}),
		"kind 5":       inner(Frame{Kind: 5, Session: 5}),
		"session 0":    inner(Frame{Kind: Open}),
		"empty data":   inner(Frame{Kind: Data, Session: 5}),
		"open, a byte": inner(Frame{Kind: Open, Session: 5, Payload: []byte{1}}),
		"long data":    inner(Frame{Kind: Data, Session: 5, Payload: make([]byte, MaxPayload+1)}),
	} {
		if f, err := Parse(b); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v %v", name, f, err)
		}
	}
}

func inner(f Frame) []byte { b := f.Bytes(); return b[1 : len(b)-1] }

// What a cut session left, and any rubbish, does not hide the next frame.
func TestReaderFindsFrames(t *testing.T) {
	t.Parallel()
	old := Frame{Data, 9, bytes.Repeat([]byte{1}, 3000)}.Bytes()
	for name, before := range map[string][]byte{
		"nothing": nil, "a cut frame": old[:1000], "the rest of one": old[1000:], "zeros": make([]byte, 10000),
		"far too long a frame": bytes.Repeat([]byte{7}, 3*maxEncoded), "text": []byte("PING 01\n"),
	} {
		want := Frame{Kind: Open, Session: 77}
		r := reader{r: io.MultiReader(bytes.NewReader(before), bytes.NewReader(want.Bytes()))}
		if f, err := r.next(); err != nil || f.Kind != Open || f.Session != 77 {
			t.Errorf("after %s: %v %v", name, f, err)
		}
		if f, err := r.next(); !errors.Is(err, io.EOF) {
			t.Errorf("after %s: %v %v follows", name, f, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(inner(Frame{Kind: Open, Session: 5}))
	f.Add(inner(Frame{Data, 1, bytes.Repeat([]byte{3}, 600)}))
	f.Add(inner(Frame{Data, 1 << 40, make([]byte, 600)}))
	f.Add([]byte{255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if f, err := Parse(b); err == nil && !bytes.Equal(inner(f), b) {
			t.Errorf("%x is written as %x", b, inner(f))
		}
		r := reader{r: bytes.NewReader(b)}
		for {
			if _, err := r.next(); err != nil {
				break
			}
			if len(r.frame) > maxEncoded {
				t.Fatal("a frame grows without a bound")
			}
		}
	})
}

// serve runs the guest's end of a stream and returns the host's, and the sessions
// that it began.
func serve(t *testing.T) (net.Conn, <-chan net.Conn) {
	host, guest := net.Pipe()
	sessions := make(chan net.Conn, 4)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = Serve(guest, func(c net.Conn) { sessions <- c })
	}()
	t.Cleanup(func() { host.Close(); <-ended })
	return host, sessions
}

// A new session replaces one whose client died in the middle of a frame.
func TestNewSessionReplacesOld(t *testing.T) {
	t.Parallel()
	host, sessions := serve(t)
	first, err := Dial(t.Context(), nopClose{host})
	if err != nil {
		t.Fatal(err)
	}
	guestFirst := <-sessions
	go first.Write([]byte("hello"))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(guestFirst, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q %v", buf, err)
	}
	cut := Frame{Data, first.(*dialed).session, make([]byte, 100)}.Bytes()
	if _, err := host.Write(cut[:50]); err != nil {
		t.Fatal(err)
	}
	second, err := Dial(t.Context(), nopClose{host})
	if err != nil {
		t.Fatal(err)
	}
	guestSecond := <-sessions
	if n, err := guestFirst.Read(buf); n != 0 || !errors.Is(err, ErrReplaced) {
		t.Errorf("the first session goes on: %d %v", n, err)
	}
	if _, err := guestFirst.Write(buf); !errors.Is(err, ErrReplaced) {
		t.Errorf("the first session writes: %v", err)
	}
	// What is left over of the first one reaches nobody.
	go func() {
		_, _ = host.Write(Frame{Data, first.(*dialed).session, []byte("stale")}.Bytes())
		_, _ = second.Write([]byte("fresh"))
	}()
	if _, err := io.ReadFull(guestSecond, buf); err != nil || string(buf) != "fresh" {
		t.Errorf("%q %v", buf, err)
	}
	go guestSecond.Close()
	if n, err := second.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after close: %d %v", n, err)
	}
}

type nopClose struct{ io.ReadWriter }

func (nopClose) Close() error { return nil }

// A session that takes nothing ends, and the stream goes on.
func TestStalledSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host, sessions := serve(t)
		c, err := Dial(t.Context(), nopClose{host})
		if err != nil {
			t.Fatal(err)
		}
		stuck := <-sessions
		start := time.Now()
		for range 2 {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != stall {
			t.Errorf("the session held up the stream for %v", took)
		}
		if _, err := stuck.Read(make([]byte, 1)); !errors.Is(err, ErrStalled) {
			t.Errorf("the stuck session: %v", err)
		}
		host.Close()
	})
}

// Nobody answers: the opening ends with its context.
func TestDialIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host, guest := net.Pipe()
		go io.Copy(io.Discard, guest)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Dial(ctx, host); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%v", err)
		}
		guest.Close()
	})
}

func key(t *testing.T) ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// keys are the right ones of both ends.
type keys struct{ guest, owner ed25519.PrivateKey }

func (k keys) server(t *testing.T) *tls.Config {
	c, err := ServerTLS(k.guest, [][32]byte{[32]byte(public(k.owner))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (k keys) client(t *testing.T) *tls.Config {
	c, err := ClientTLS(k.owner, public(k.guest))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pipe is a connection with buffers, as ours have: an alert must not wait for who
// writes something else.
func pipe(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// Patience of a conversation that works, and of one that a host spoils, which may
// leave both ends waiting.
const (
	patience = 30 * time.Second
	spoilt   = 2 * time.Second
)

// converse lets both ends shake hands and the owner say a word. It returns what
// the guest read, and both errors.
func converse(owner, guest net.Conn, client, server *tls.Config, patience time.Duration) (heard string, ownerErr, guestErr error) {
	deadline := time.Now().Add(patience)
	owner.SetDeadline(deadline)
	guest.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer guest.Close()
		s := tls.Server(guest, server)
		buf := make([]byte, 64)
		n, err := s.Read(buf)
		heard, guestErr = string(buf[:n]), err
		if err == nil {
			_, _ = s.Write([]byte("yes"))
		}
	}()
	c := tls.Client(owner, client)
	if _, ownerErr = c.Write([]byte("canary")); ownerErr == nil {
		_, ownerErr = c.Read(make([]byte, 3))
	}
	owner.Close()
	<-done
	return heard, ownerErr, guestErr
}

func TestTLSByKeys(t *testing.T) {
	t.Parallel()
	k, other := keys{key(t), key(t)}, keys{key(t), key(t)}
	old := k.client(t)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	oldServer := k.server(t)
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	anonymous := k.client(t)
	anonymous.Certificates = nil
	two := k.client(t)
	two.Certificates[0].Certificate = append(two.Certificates[0].Certificate, two.Certificates[0].Certificate[0])
	stolen := k.client(t) // the certificate of a client without its key
	stolen.Certificates = []tls.Certificate{{Certificate: stolen.Certificates[0].Certificate, PrivateKey: other.owner}}
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		ok             bool
	}{
		{"right keys", k.client(t), k.server(t), true},
		{"a server with another key", k.client(t), keys{other.guest, k.owner}.server(t), false},
		{"a client with another key", keys{k.guest, other.owner}.client(t), k.server(t), false},
		{"a client without a certificate", anonymous, k.server(t), false},
		{"a client with two certificates", two, k.server(t), false},
		{"a client with a copied certificate", stolen, k.server(t), false},
		{"a client of TLS 1.2", old, k.server(t), false},
		{"a server of TLS 1.2", k.client(t), oldServer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := pipe(t)
			heard, ownerErr, guestErr := converse(a, b, c.client, c.server, patience)
			if ok := ownerErr == nil && guestErr == nil && heard == "canary"; ok != c.ok {
				t.Errorf("owner %v, guest %v, heard %q", ownerErr, guestErr, heard)
			}
			if !c.ok && heard != "" {
				t.Errorf("the guest took %q", heard)
			}
		})
	}
}

// relay passes bytes on both ways through a host that may change them, and keeps
// what the owner sent.
func relay(t *testing.T, alter func(fromOwner bool, n int, b []byte) []byte) (owner, guest net.Conn, sent func() []byte) {
	owner, hostOwner := pipe(t)
	guest, hostGuest := pipe(t)
	var recorded bytes.Buffer
	var wg sync.WaitGroup
	pass := func(fromOwner bool, from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		buf := make([]byte, 32<<10)
		for i := 0; ; i++ {
			n, err := from.Read(buf)
			if fromOwner {
				recorded.Write(buf[:n])
			}
			if n > 0 {
				b := alter(fromOwner, i, bytes.Clone(buf[:n]))
				if b == nil {
					return
				}
				if _, err := to.Write(b); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() { pass(true, hostOwner, hostGuest) })
	wg.Go(func() { pass(false, hostGuest, hostOwner) })
	return owner, guest, func() []byte { wg.Wait(); return recorded.Bytes() }
}

// A host in the middle can only cut.
func TestHostInTheMiddle(t *testing.T) {
	t.Parallel()
	k := keys{key(t), key(t)}
	keep := func(_ bool, _ int, b []byte) []byte { return b }
	owner, guest, sent := relay(t, keep)
	heard, ownerErr, guestErr := converse(owner, guest, k.client(t), k.server(t), patience)
	if heard != "canary" || ownerErr != nil || guestErr != nil {
		t.Fatalf("an honest relay: %q, %v, %v", heard, ownerErr, guestErr)
	}
	recorded := sent()
	if bytes.Contains(recorded, []byte("canary")) {
		t.Error("the host reads what the owner sends")
	}

	for name, alter := range map[string]func(bool, int, []byte) []byte{
		"flips a bit for the guest": func(fromOwner bool, _ int, b []byte) []byte {
			if fromOwner {
				b[len(b)-1] ^= 1
			}
			return b
		},
		"flips a bit for the owner": func(fromOwner bool, _ int, b []byte) []byte {
			if !fromOwner {
				b[len(b)/2] ^= 0x40
			}
			return b
		},
		"cuts the end of each piece": func(_ bool, _ int, b []byte) []byte { return b[:len(b)-1] },
		"sends each piece twice":     func(_ bool, _ int, b []byte) []byte { return append(b, b...) },
		"hangs up after the hello": func(fromOwner bool, n int, b []byte) []byte {
			if fromOwner && n == 1 {
				return nil
			}
			return b
		},
		"sends zeros": func(_ bool, _ int, b []byte) []byte { return make([]byte, len(b)) },
		"sends the owner its own back": func(fromOwner bool, _ int, b []byte) []byte {
			return append([]byte(nil), recorded[:len(b)%len(recorded)]...)
		},
		"plays an old session to a guest": func(fromOwner bool, n int, b []byte) []byte {
			if fromOwner {
				return recorded
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owner, guest, _ := relay(t, alter)
			heard, ownerErr, _ := converse(owner, guest, k.client(t), k.server(t), spoilt)
			if heard != "" || ownerErr == nil {
				t.Errorf("the guest heard %q, the owner %v", heard, ownerErr)
			}
		})
	}
}

// Time never matters: the guest's clock is the host's.
func TestClockDoesNotMatter(t *testing.T) {
	t.Parallel()
	k := keys{key(t), key(t)}
	for _, year := range []int{1970, 2106, 9998} {
		client, server := k.client(t), k.server(t)
		server.Time = func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
		a, b := pipe(t)
		if heard, ownerErr, guestErr := converse(a, b, client, server, patience); heard != "canary" || ownerErr != nil || guestErr != nil {
			t.Errorf("%d: %v, %v", year, ownerErr, guestErr)
		}
	}
}
