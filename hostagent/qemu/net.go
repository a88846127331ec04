package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/secexec/secexec/form"
)

// Bounds of a guest's networks. A queue pair is two virtqueues, and one more of
// the device is for control.
const (
	MaxNets      = 8
	MaxNetQueues = (maxQueues - 1) / 2
	MaxPublish   = 16 // ports of one network
)

// Net is a network interface of the guest. Exactly one of Tap, User and Socket is
// set.
type Net struct {
	MAC     string    // six octets, lower-case hex with colons; see [MAC]
	Tap     string    // name of an existing tap interface
	User    bool      // QEMU's user-mode network: outgoing connections only, for development
	Socket  string    // where another program hands over a tap interface: [TakeTap]
	Queues  int       // queue pairs, 0 means 1; more than one for Tap and Socket only
	Publish []Publish // for User only
	FDs     []int     // the tap's queues as descriptors of the process, from [OpenTap]; none: QEMU opens Tap itself
}

// Publish leads from a TCP port of the node's loopback address to one of the
// guest's.
type Publish struct{ Node, Guest int }

// CheckNets refuses networks that QEMU could not attach or would misunderstand;
// it does not look for the interfaces.
func CheckNets(nets []Net) error {
	if len(nets) > MaxNets {
		return invalid("%d networks, at most %d", len(nets), MaxNets)
	}
	macs, taps, ports, handed := make(map[string]bool), make(map[string]bool), make(map[int]bool), 0
	for i := range nets {
		n := &nets[i]
		if err := n.check(); err != nil {
			return err
		}
		if macs[n.MAC] {
			return invalid("MAC address %s is used twice", n.MAC)
		}
		if n.Tap != "" && taps[n.Tap] {
			return invalid("tap interface %s is used twice", n.Tap)
		}
		if n.Socket != "" {
			handed++
		}
		if handed > 1 { // the guest has one port for a description
			return invalid("two networks that other programs hand over")
		}
		for _, p := range n.Publish {
			if ports[p.Node] {
				return invalid("port %d is published twice", p.Node)
			}
			ports[p.Node] = true
		}
		macs[n.MAC], taps[n.Tap] = true, true
	}
	return nil
}

func (n *Net) check() error {
	switch {
	case !form.MAC.MatchString(n.MAC) || n.MAC == "00:00:00:00:00:00":
		return invalid("MAC address %q is not six octets of one interface, in lower-case hex with colons", n.MAC)
	case n.kinds() != 1:
		return invalid("network wants one of a tap interface, a socket where one is handed over, and user mode")
	case len(n.Socket) > maxSocketPath:
		return invalid("network's socket path has %d bytes, at most %d", len(n.Socket), maxSocketPath)
	case n.Tap != "" && !form.Tap.MatchString(n.Tap):
		return invalid("tap interface %q is no interface name", n.Tap)
	case n.Queues < 0 || n.Queues > MaxNetQueues:
		return invalid("network has %d queue pairs, at most %d", n.Queues, MaxNetQueues)
	case n.User && n.Queues > 1:
		return invalid("a user-mode network has one queue pair, not %d", n.Queues)
	case len(n.Publish) > MaxPublish || len(n.Publish) > 0 && !n.User:
		return invalid("network publishes %d ports: a user-mode network publishes at most %d, others none", len(n.Publish), MaxPublish)
	case len(n.FDs) > 0 && len(n.FDs) != max(n.Queues, 1):
		return invalid("network has %d queue pairs and %d descriptors", max(n.Queues, 1), len(n.FDs))
	}
	if n.Socket != "" {
		if err := checkPath("network's socket", n.Socket); err != nil {
			return err
		}
	}
	for _, p := range n.Publish {
		if p.Node < 1 || p.Node > 65535 || p.Guest < 1 || p.Guest > 65535 {
			return invalid("published port %d:%d is not in 1..65535", p.Node, p.Guest)
		}
	}
	return nil
}

func (n *Net) kinds() (count int) {
	for _, is := range []bool{n.Tap != "", n.Socket != "", n.User} {
		if is {
			count++
		}
	}
	return count
}

// MAC is the address of a guest's network interface number index, counted from
// 0, where the operator names none: the same on each node and after each start.
//
// It is made of the first six bytes of SHA-256 over the 16 bytes of the UUID and
// one byte, the index; of the first octet the two lowest bits are 10: locally
// administered, of one interface (IEEE 802). All 46 other bits are the hash's,
// so that a thousand guests of one network get different ones, which 24 bits
// behind a fixed prefix would not do.
func MAC(uuid string, index int) (string, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || !form.UUID.MatchString(uuid) || index < 0 || index >= MaxNets {
		return "", invalid("UUID %q and interface %d give no MAC address", uuid, index)
	}
	sum := sha256.Sum256(append(id, byte(index)))
	sum[0] = sum[0]&^3 | 2
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4], sum[5]), nil
}

// networks are the virtio-net devices. A tap interface exists before QEMU does;
// QEMU runs no script and, given descriptors, needs no right to open it.
//
// vhost is off: it would have the node's kernel read a hostile guest's queues,
// and wants /dev/vhost-net in the guest's sandbox. Where it pays is to be
// measured on a machine that has Secure Execution.
func networks(c *Config) []string {
	var argv []string
	for i := range c.Nets {
		n := &c.Nets[i]
		id := fmt.Sprintf("net%d", i)
		backend := object{{"type", "user"}, {"id", id + "-backend"}}
		if len(n.Publish) > 0 {
			backend = append(backend, member{"hostfwd", n.forwards()})
		}
		if !n.User {
			backend = append(object{{"type", "tap"}, {"id", id + "-backend"}}, n.tap()...)
		}
		o := object{{"netdev", id + "-backend"}, {"mac", n.MAC}}
		if n.Queues > 1 {
			o = append(o, member{"mq", true})
		}
		argv = append(argv, "-netdev", backend.String())
		argv = append(argv, virtio("virtio-net-ccw", id, DevnoNets+i, o...)...)
	}
	return argv
}

// forwards are the published ports, for the node's own programs alone.
func (n *Net) forwards() (out array) {
	for _, p := range n.Publish {
		out = append(out, object{{"str", fmt.Sprintf("tcp:127.0.0.1:%d-:%d", p.Node, p.Guest)}})
	}
	return out
}

// tap is where QEMU finds the interface's queues.
func (n *Net) tap() object {
	switch {
	case len(n.FDs) == 1:
		return object{{"fd", strconv.Itoa(n.FDs[0])}, {"vhost", false}}
	case len(n.FDs) > 1:
		var fds []string
		for _, fd := range n.FDs {
			fds = append(fds, strconv.Itoa(fd))
		}
		return object{{"fds", strings.Join(fds, ":")}, {"vhost", false}}
	}
	o := object{{"ifname", n.Tap}, {"script", "no"}, {"downscript", "no"}, {"vhost", false}}
	if n.Queues > 1 {
		o = append(o, member{"queues", n.Queues})
	}
	return o
}
