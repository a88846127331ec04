package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

func rawDial(t *testing.T, path string) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a test that waits for ever tells nothing
	return conn
}

// frame is a frame as a client sends it.
func frame(stream uint32, kind, flags byte, payload []byte) []byte {
	return append(header{uint32(len(payload)), stream, kind, flags}.append(nil), payload...)
}

// ask is a request's frame.
func ask(stream uint32, method string, r proto.Message) []byte {
	payload, err := proto.Marshal(r)
	if err != nil {
		panic(err)
	}
	b, err := proto.Marshal(&ttrpc.Request{Service: "secexec.hostagent.v1.Hostagent", Method: method, Payload: payload})
	if err != nil {
		panic(err)
	}
	return frame(stream, typeRequest, 0, b)
}

// hear reads a frame; of a response its failure's code, "ok" of none.
func hear(conn io.Reader) (h header, code string, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return h, "", err
	}
	h = parseHeader(b[:])
	payload := make([]byte, h.length)
	if _, err := io.ReadFull(conn, payload); err != nil {
		return h, "", err
	}
	if h.kind != typeResponse {
		return h, "", nil
	}
	var r ttrpc.Response
	if err := proto.Unmarshal(payload, &r); err != nil {
		return h, "", err
	}
	code = "ok"
	for _, d := range r.Status.GetDetails() {
		var f hostagentv1.Failure
		if d.UnmarshalTo(&f) == nil {
			code = f.Code
		}
	}
	return h, code, nil
}

// ended tells whether the other side has ended the connection, after whatever it
// had to say.
func ended(conn net.Conn) bool {
	_, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	return !(errors.As(err, &timeout) && timeout.Timeout())
}

// patient keeps a call in flight until the test lets go.
func patient(n *testNode) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	n.service.Node = func(call context.Context) *hostagentv1.NodeInfoResponse {
		select {
		case <-ctx.Done():
		case <-call.Done():
		}
		return &hostagentv1.NodeInfoResponse{}
	}
	n.t.Cleanup(cancel)
	return cancel
}

// What breaks ttrpc's rules ends the connection of who does it, and nothing else.
func TestProtocolBreakers(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	patient(n)
	path := n.socket(alice)
	list := ask(1, "List", &hostagentv1.ListRequest{})
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise)
	noise[0] = 0xff // a length that nobody takes
	for name, c := range map[string][][]byte{
		"noise":                      {noise},
		"HTTP":                       {[]byte("GET / HTTP/1.1\r\nHost: node\r\n\r\n")},
		"huge length":                {header{1<<32 - 1, 1, typeRequest, 0}.append(nil)},
		"one more than the largest":  {header{maxFrame + 1, 1, typeRequest, 0}.append(nil)},
		"even stream":                {frame(2, typeRequest, 0, list[headerSize:])},
		"stream 0":                   {frame(0, typeRequest, 0, list[headerSize:])},
		"stream used twice":          {list, list},
		"stream that goes back":      {ask(5, "List", &hostagentv1.ListRequest{}), ask(3, "List", &hostagentv1.ListRequest{})},
		"data before a request":      {frame(1, typeData, 0, []byte("x"))},
		"data for an even stream":    {list, frame(0, typeData, 0, []byte("x"))},
		"data for a call in flight":  {ask(1, "NodeInfo", &hostagentv1.NodeInfoRequest{}), frame(1, typeData, 0, []byte("x"))}, // ttrpc's server would fall over it
		"close for a call in flight": {ask(1, "NodeInfo", &hostagentv1.NodeInfoRequest{}), frame(1, typeData, flagRemoteClosed, nil)},
		"data for a stream of ours":  {ask(1, "Events", &hostagentv1.EventsRequest{}), frame(1, typeData, 0, []byte("x"))},
		"empty data for it":          {ask(1, "Events", &hostagentv1.EventsRequest{}), frame(1, typeData, 4, nil)},
	} {
		conn := rawDial(t, path)
		for _, b := range c {
			if _, err := conn.Write(b); err != nil {
				break // it did not wait for the end
			}
		}
		if !ended(conn) {
			t.Errorf("%s: the connection goes on", name)
		}
	}
	if _, err := n.dial(alice).List(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is merely wrong is answered, and the connection goes on.
func TestWrongRequests(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	conn := rawDial(t, n.socket(alice))
	// A request of exactly so many bytes: ttrpc's Request with the method List and
	// a payload that the call does not look at.
	sized := func(stream uint32, size int) []byte {
		r := ask(stream, "List", &hostagentv1.ListRequest{})[headerSize:]
		pad := size - len(r)
		for _, n := range []int{2, 3, 4, 5} {
			body := append(binary.AppendUvarint([]byte{0x1a}, uint64(pad-n)), make([]byte, pad-n)...)
			body[len(body)-(pad-n)] = 0x0a // unknown field 1 of ListRequest, bytes
			if len(body) == pad {
				inner := binary.AppendUvarint([]byte{0x0a}, uint64(pad-n-4))
				copy(body[len(body)-(pad-n):], inner)
				r = append(r, body...)
				break
			}
		}
		if len(r) != size {
			panic("size")
		}
		return frame(stream, typeRequest, 0, r)
	}
	stream := uint32(1)
	for _, c := range []struct {
		name  string
		bytes func() []byte
		want  string
	}{
		{"no request", func() []byte { return frame(stream, typeRequest, 0, nil) }, "H216"},
		{"no protobuf", func() []byte { return frame(stream, typeRequest, 0, []byte("\xff\xff\xff")) }, "H216"},
		{"half a field", func() []byte { return frame(stream, typeRequest, 0, []byte("\x0a\x7fx")) }, "H216"},
		{"long method", func() []byte { return ask(stream, strings.Repeat("m", maxMethod+1), &hostagentv1.ListRequest{}) }, "H216"},
		{"no such call", func() []byte { return ask(stream, "Explode", &hostagentv1.ListRequest{}) }, "H216"},
		{"a message as a service", func() []byte {
			b, _ := proto.Marshal(&ttrpc.Request{Service: "secexec.hostagent.v1.Guest", Method: "List"})
			return frame(stream, typeRequest, 0, b)
		}, "H216"},
		{"largest", func() []byte { return sized(stream, maxRequest) }, "ok"},
		{"one byte more", func() []byte { return sized(stream, maxRequest+1) }, "H225"},
		{"as large as ttrpc's largest", func() []byte { return frame(stream, typeRequest, 0, make([]byte, maxFrame)) }, "H225"},
		{"unknown kind of frame, then a call", func() []byte {
			return append(frame(stream, 9, 0, []byte("later")), ask(stream, "List", &hostagentv1.ListRequest{})...)
		}, "ok"},
		{"response, then a call", func() []byte {
			return append(frame(stream, typeResponse, 0, []byte("?")), ask(stream, "List", &hostagentv1.ListRequest{})...)
		}, "ok"},
		{"data for a call that has ended, then a call", func() []byte {
			return append(frame(stream-2, typeData, 0, []byte("late")), ask(stream, "List", &hostagentv1.ListRequest{})...)
		}, "ok"},
	} {
		if _, err := conn.Write(c.bytes()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		h, code, err := hear(conn)
		if err != nil || h.stream != stream || code != c.want {
			t.Fatalf("%s: %+v %q %v, wants %q", c.name, h, code, err, c.want)
		}
		stream += 2
	}
}

// A thousand connections that do nothing: a user has so many, and nobody else
// notices. Half frames and frames byte by byte end in time.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) { n.gate.first, n.gate.hello = time.Minute, time.Minute })
	path, others := n.socket(alice), n.socket(bob)
	before := heap()
	var conns []net.Conn
	for range 1000 {
		conns = append(conns, rawDial(t, path))
	}
	eventually(t, "a user's connections are counted", func() bool {
		n.gate.mu.Lock()
		defer n.gate.mu.Unlock()
		return n.gate.users[alice.UID] == maxUserConns
	})
	for range 20 {
		if _, err := n.connect(others).List(t.Context()); err != nil {
			t.Fatalf("another tenant: %v", err)
		}
	}
	t.Logf("%d bytes of heap for 1000 connections, of which %d stay", heap()-before, maxUserConns)
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "they are free again", func() bool {
		n.gate.mu.Lock()
		defer n.gate.mu.Unlock()
		return n.gate.users[alice.UID] == 0 && len(n.gate.farewells) == 0
	})
	if _, err := n.connect(path).List(t.Context()); err != nil {
		t.Errorf("the same tenant, later: %v", err)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// One connection too many is told so.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	path := n.socket(alice)
	for range maxUserConns {
		if _, err := n.connect(path).List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.connect(path).List(t.Context()); code(err) != fault.Limit || !strings.Contains(err.Error(), "uid 4001 has 64 connections, at most 64") {
		t.Errorf("one more: %v", err)
	}
}

// Tenants together can't shut administrators out.
func TestManyTenants(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	for i := range maxConns {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		if err := n.gate.enter(newGuard(a, &Caller{UID: uint32(5000 + i)}, func() {})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.dial(bob).List(t.Context()); code(err) != fault.Limit {
		t.Errorf("one more tenant: %v", err)
	}
	if _, err := n.dial(admin).List(t.Context()); err != nil {
		t.Errorf("administrator: %v", err)
	}
}

func TestHalfFrames(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) { n.gate.first, n.gate.frame = 100*time.Millisecond, 100*time.Millisecond })
	path := n.socket(alice)
	list := ask(1, "List", &hostagentv1.ListRequest{})
	for name, b := range map[string][]byte{
		"nothing": nil, "half a header": list[:4], "a header": list[:headerSize], "all but a byte": list[:len(list)-1],
		"a promise of 4 MiB": header{maxFrame, 1, typeRequest, 0}.append(nil),
		"after a call":       append(append([]byte(nil), list...), ask(3, "List", &hostagentv1.ListRequest{})[:5]...),
	} {
		conn := rawDial(t, path)
		if _, err := conn.Write(b); err != nil || !ended(conn) {
			t.Errorf("%s: the connection goes on (%v)", name, err)
		}
	}
	// Byte by byte of one frame, for as long as it is let.
	conn := rawDial(t, path)
	if _, err := conn.Write(header{maxFrame, 1, typeRequest, 0}.append(nil)); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if _, err := conn.Write([]byte{0}); err != nil {
			break
		}
		if i > 3000 {
			t.Fatal("a byte now and then keeps a connection for ever")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Calls and streams in flight are bounded; what is refused says so, and there is
// room again when one ends.
func TestCallsInFlight(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	release := patient(n)
	conn := rawDial(t, n.socket(alice))
	stream := uint32(1)
	send := func(method string, r proto.Message) uint32 {
		t.Helper()
		if _, err := conn.Write(ask(stream, method, r)); err != nil {
			t.Fatal(err)
		}
		stream += 2
		return stream - 2
	}
	greet := func(want uint32) {
		t.Helper()
		if h, _, err := hear(conn); err != nil || h.kind != typeData || h.stream != want {
			t.Fatalf("%+v %v", h, err)
		}
	}
	refused := func(want uint32) {
		t.Helper()
		if h, code, err := hear(conn); err != nil || h.stream != want || code != "H225" {
			t.Fatalf("%+v %q %v", h, code, err)
		}
	}
	for range maxStreams {
		greet(send("Events", &hostagentv1.EventsRequest{}))
	}
	refused(send("Events", &hostagentv1.EventsRequest{}))
	for range maxCalls - maxStreams {
		send("NodeInfo", &hostagentv1.NodeInfoRequest{})
	}
	for range 100 {
		refused(send("NodeInfo", &hostagentv1.NodeInfoRequest{}))
	}
	release()
	for range maxCalls - maxStreams {
		if _, code, err := hear(conn); err != nil || code != "ok" {
			t.Fatalf("%q %v", code, err)
		}
	}
	send("NodeInfo", &hostagentv1.NodeInfoRequest{})
	if _, code, err := hear(conn); err != nil || code != "ok" {
		t.Fatalf("%q %v", code, err)
	}
	// The streams end with the connection.
	before := runtime.NumGoroutine()
	conn.Close()
	eventually(t, "its streams end", func() bool { return runtime.NumGoroutine() <= before-maxStreams })
}

// Clients that ask and never read are cut off; they hold up nobody.
func TestStalledReaders(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) { n.gate.frame = 300 * time.Millisecond })
	a := n.dial(alice)
	for i := range 5 {
		n.create(a, fmt.Sprintf("g%d", i))
	}
	path := n.socket(alice)
	for i := range 10 {
		conn := rawDial(t, path)
		go func() { // until it is cut off
			for stream := uint32(1); ; stream += 2 {
				b := ask(stream, "List", &hostagentv1.ListRequest{})
				switch i % 3 {
				case 1:
					b = ask(stream, "Nonsense", &hostagentv1.ListRequest{})
				case 2:
					b = ask(stream, "Events", &hostagentv1.EventsRequest{})
				}
				if _, err := conn.Write(b); err != nil {
					return
				}
			}
		}()
	}
	for range 50 {
		if _, err := a.List(t.Context()); err != nil {
			t.Fatalf("beside stalled readers: %v", err)
		}
	}
	eventually(t, "they are cut off", func() bool {
		n.gate.mu.Lock()
		defer n.gate.mu.Unlock()
		return n.gate.users[alice.UID] == 1
	})
	if _, err := a.List(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who is turned away learns why.
func TestTurnedAway(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	path := n.dir + "/no"
	n.serve(path, func(_ context.Context, c net.Conn) (net.Conn, *Caller, error) {
		return nil, nil, fault.New(fault.NotPermitted, "uid 7 is not one of us")
	})
	_, err := n.connect(path).List(t.Context())
	if code(err) != fault.NotPermitted || !strings.Contains(err.Error(), "uid 7 is not one of us") {
		t.Errorf("%v", err)
	}
	silent := n.dir + "/silent"
	n.serve(silent, func(_ context.Context, c net.Conn) (net.Conn, *Caller, error) {
		return nil, nil, os.ErrDeadlineExceeded
	})
	if _, err := n.connect(silent).List(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// scripted is a connection that a client wrote beforehand.
type scripted struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *scripted) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *scripted) Close() error                     { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

// Whatever a client sends: what passes the guard are whole requests for known
// calls on rising odd streams, no more than may be in flight; what it answers
// are whole frames.
func FuzzGuard(f *testing.F) {
	list, events := ask(1, "List", &hostagentv1.ListRequest{}), ask(3, "Events", &hostagentv1.EventsRequest{})
	f.Add(list)
	f.Add(append(append([]byte(nil), list...), events...))
	f.Add(append(append([]byte(nil), events...), frame(3, typeData, 0, []byte("x"))...))
	f.Add(ask(1, "Explode", &hostagentv1.ListRequest{}))
	f.Add(frame(2, typeRequest, 0, list[headerSize:]))
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := &scripted{in: bytes.NewReader(in)}
		g := newGuard(conn, &alice, func() {})
		passed, _ := io.ReadAll(g)
		highest := uint32(0)
		n := 0
		for ; len(passed) > 0; n++ {
			if len(passed) < headerSize {
				t.Fatal("half a header passes")
			}
			h := parseHeader(passed)
			if len(passed) < headerSize+int(h.length) || h.length > maxRequest || h.kind != typeRequest || h.stream%2 != 1 || h.stream <= highest {
				t.Fatalf("%+v passes after stream %d", h, highest)
			}
			service, method, err := parseRequest(passed[headerSize : headerSize+h.length])
			if _, e := lookUp(&alice, service, method); err != nil || e != nil {
				t.Fatalf("%s/%s passes: %v %v", service, method, err, e)
			}
			highest, passed = h.stream, passed[headerSize+h.length:]
		}
		if n > maxCalls {
			t.Fatalf("%d calls pass", n)
		}
		for answers := bytes.NewReader(conn.out.Bytes()); answers.Len() > 0; {
			if _, code, err := hear(answers); err != nil || code == "ok" {
				t.Fatalf("the guard answers %q %v", code, err)
			}
		}
	})
}
