package booted

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/sealed"
)

// described is sealed to take its network from its host's description.
var described = sync.OnceValues(func() (string, error) {
	p, err := plan("described", filepath.Join(lab.dir, "victim-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	p.Init, p.StopSignal = "", 0
	p.Workload = &owner.Workload{Entrypoint: []string{"/sbin/init", "network"}, Network: &sealed.Network{Source: sealed.Host}}
	_, err = owner.Build(context.Background(), p)
	return p.Bundle, err
})

// description is one that guests take.
func description(t *testing.T) []byte {
	t.Helper()
	d := network.Description{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, Gateways: []network.Gateway{{Address: netip.MustParseAddr("192.0.2.1")}}}
	b, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nic gives the guest a network interface without a description.
var nic = []string{"-netdev", "hubport,id=net,hubid=0", "-device", "virtio-net-ccw,netdev=net,devno=fe.0.0010"}

// port gives it a description's port with a character device behind it. In JSON, as
// the bus: QEMU makes other devices first.
func port(chardev string) []string {
	return append([]string{"-chardev", chardev + ",id=network", "-device", `{"driver":"virtserialport","bus":"serial0.0","nr":3,"chardev":"network","name":"` + network.Port + `"}`}, nic...)
}

// describes gives the guest bytes in place of a description, and goes on with more
// for as long as there is somebody to take them.
func describes(bytesOf func(good []byte) []byte, more []byte) func(*testing.T, *victim) string {
	return func(t *testing.T, v *victim) string {
		w := v.pipe(t)
		if _, err := w.Write(bytesOf(description(t))); err != nil {
			t.Fatal(err)
		}
		if more != nil {
			flooded := make(chan struct{})
			go func() {
				defer close(flooded)
				for _, err := w.Write(more); err == nil; _, err = w.Write(more) {
				}
			}()
			t.Cleanup(func() { w.Close(); <-flooded })
		}
		return appended(port("pipe,path=" + v.file("network")))
	}
}

// pipe makes the host's end of a port on QEMU's character device "pipe".
func (v *victim) pipe(t *testing.T) *os.File {
	t.Helper()
	for _, end := range []string{".in", ".out"} {
		if err := unix.Mkfifo(v.file("network")+end, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := os.OpenFile(v.file("network")+".in", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func appended(args []string) string { return "$a " + strings.Join(args, "\n$a ") }

// has checks that the guest has the description's address.
func has(t *testing.T, v *victim) {
	t.Helper()
	if c := v.console(v.name); !strings.Contains(c, "192.0.2.7/24") {
		t.Errorf("the guest has not what was described:\n%s", c)
	}
}

func same(b []byte) []byte { return b }

func edited(at int, to byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
}

// waits is how long a guest waits for a description.
const waits = 31 * time.Second

// networkAttacks are what a host can do to a guest whose network it is to describe.
var networkAttacks = []attack{
	{
		name: "describes the network late", want: "runs", bundle: of(described),
		sed: func(t *testing.T, v *victim) string {
			w := v.pipe(t)
			v.late = func() { _, _ = w.Write(description(t)) }
			return appended(port("pipe,path=" + v.file("network")))
		},
		during: func(t *testing.T, v *victim) {
			v.passes(t, "mounted")
			time.Sleep(2 * time.Second)
			v.late()
		},
		after: has,
	},
	{name: "describes the network, then floods the port with zeros", want: "runs", bundle: of(described), sed: describes(same, make([]byte, 4096)), after: has},
	{name: "gives no port for a description", want: "G156", silence: waits, bundle: of(described), sed: func(*testing.T, *victim) string { return appended(nic) }},
	{
		name: "gives the port and keeps its end closed", want: "G156", silence: waits, bundle: of(described),
		sed: func(_ *testing.T, v *victim) string {
			return appended(port("socket,path=" + v.file("network") + ",server=on,wait=off"))
		},
	},
	{name: "describes half of the network and falls silent", want: "G156", silence: waits, bundle: of(described), sed: describes(func(b []byte) []byte { return b[:len(b)-1] }, nil)},
	{name: "floods the description's port with garbage", want: "G157", quick: true, bundle: of(described), sed: describes(func([]byte) []byte { return nil }, []byte("GET / HTTP/1.1\r\n\r\n"))},
	{name: "says that the description has 65535 bytes", want: "G157", bundle: of(described), sed: describes(edited(8, 0xff), make([]byte, 4096))},
	{name: "describes a network that is the guest's own loopback", want: "G157", bundle: of(described), sed: describes(edited(14, 127), nil)},
	{name: "describes the network and gives no interface", want: "G150", silence: waits, bundle: of(described), sed: func(t *testing.T, v *victim) string {
		describes(same, nil)(t, v)
		return appended(port("pipe,path=" + v.file("network"))[:4])
	}},
	{name: "describes the network and gives two interfaces", want: "G151", bundle: of(described), sed: func(t *testing.T, v *victim) string {
		return describes(same, nil)(t, v) + "\n" + appended([]string{"-netdev", "hubport,id=two,hubid=0", "-device", "virtio-net-ccw,netdev=two,devno=fe.0.0011"})
	}},
}

// A hostile host describes the network.
func TestNetworkAttacks(t *testing.T) {
	t.Parallel()
	attacks(t, networkAttacks)
}
