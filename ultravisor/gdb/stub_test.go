package gdb

import (
	"bufio"
	"context"
	"net"
	"testing"
	"time"
)

// exchange is one command that a scripted stub expects, and the bytes that it
// answers with, its acknowledgement included.
type exchange struct{ want, answer string }

// ack answers as a stub does that keeps to the protocol.
func ack(text string) string { return "+" + string(encode(text)) }

// greeting is what New says first.
var greeting = []exchange{
	{"qSupported:xmlRegisters=s390", ack("PacketSize=1000;qXfer:features:read+")},
	{"qXfer:features:read:target.xml:0,ffb", ack("l<target><!-- } # $ * --></target>")},
}

// script serves these exchanges, then closes the connection. It fails the test
// if the client says anything else.
func script(t *testing.T, exchanges ...exchange) net.Conn {
	t.Helper()
	client, stub := net.Pipe()
	done := make(chan struct{})
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	go func() {
		defer close(done)
		defer stub.Close()
		r := bufio.NewReader(stub)
		for _, x := range exchanges {
			got, err := readPacket(r)
			if err != nil {
				return // the client gave up, which its test judges
			}
			if got != x.want {
				t.Errorf("client says %q, wants %q", got, x.want)
				return
			}
			if _, err := stub.Write([]byte(x.answer)); err != nil {
				return
			}
			if n := len(x.answer); n < 4 || x.answer[n-3] != '#' {
				return // the stub died: there is no packet to acknowledge
			}
			if b, err := r.ReadByte(); err != nil || b != '+' {
				return
			}
		}
	}()
	return client
}

// greeted is a client behind the greeting.
func greeted(t *testing.T, exchanges ...exchange) (context.Context, *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	c, err := New(ctx, script(t, append(append([]exchange(nil), greeting...), exchanges...)...))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, c
}
