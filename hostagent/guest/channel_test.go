package guest

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
)

// The channel's port takes one client at a time, and the next when that is gone.
func TestChannel(t *testing.T) {
	t.Parallel()
	_, g := inRoom(t, newRoom(t, bootsUp), kept(t, stored("g", Stopped, 0)), nil)
	if _, err := g.Channel(t.Context()); fault.As(err).Code != fault.WrongState {
		t.Errorf("a guest that does not run: %v", err)
	}
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	for range 3 {
		c, err := g.Channel(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Channel(t.Context()); fault.As(err).Code != fault.NoChannel {
			t.Errorf("a second client: %v", err)
		}
		buf := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q %v", buf, err)
		}
		c.Close()
		c.Close() // as often as one likes
	}
	c, err := g.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the guest's end: %d %v", n, err)
	}
}
