package booted

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/shim/podnet"
	"github.com/secexec/secexec/shim/podnet/podnettest"
)

const (
	nodeSide  = "10.77.0.1" // the bridge's
	nodeSide6 = "fd77::1"
)

// bridged makes pods on a bridge in a namespace of its own, as the network plugin
// "bridge" does. Nothing leads out of it. By IPv6 the bridge's side routes, and
// neighbours are set for good: QEMU 7.2's emulation miscounts the checksums that a
// question for a neighbour has.
func bridged(t *testing.T, pods int) (node string, out []string) {
	t.Helper()
	node = podnettest.Namespace(t)
	gateway := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	podnettest.In(t, node, func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: podnettest.MTU, HardwareAddr: gateway}}); err != nil {
			t.Skip("no bridges here: ", err)
		}
		return errors.Join(podnettest.Up(h, "br0", []netip.Prefix{netip.MustParsePrefix(nodeSide + "/24"), netip.MustParsePrefix(nodeSide6 + "/64")}),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	for i := range pods {
		pod := podnettest.Namespace(t)
		podnettest.Pair(t, pod, "eth0", node, fmt.Sprintf("pod%d", i), "br0")
		six := netip.MustParseAddr(fmt.Sprintf("fd77::%d", i+2))
		var mac net.HardwareAddr
		podnettest.In(t, pod, func(h *netlink.Handle) error {
			four := netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", i+2))
			err := podnettest.Up(h, "eth0", []netip.Prefix{four, netip.PrefixFrom(six, 128)}, netip.MustParseAddr(nodeSide))
			if err != nil {
				return err
			}
			link, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			mac = link.Attrs().HardwareAddr
			return errors.Join(neighbour(h, link, nodeSide6, gateway),
				h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(nodeSide6), Flags: int(netlink.FLAG_ONLINK)}))
		})
		podnettest.In(t, node, func(h *netlink.Handle) error {
			link, err := h.LinkByName("br0")
			if err != nil {
				return err
			}
			return neighbour(h, link, six.String(), mac)
		})
		out = append(out, pod)
	}
	return node, out
}

func neighbour(h *netlink.Handle, link netlink.Link, ip string, mac net.HardwareAddr) error {
	return h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac})
}

// asks sends a line to testapp's relay from a namespace.
func asks(t *testing.T, ns, host, line string) string {
	t.Helper()
	var c net.Conn
	podnettest.In(t, ns, func(*netlink.Handle) (err error) {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(host, "7777"), time.Minute)
		return err
	})
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(4 * time.Minute))
	fmt.Fprintln(c, line)
	answer, err := io.ReadAll(io.LimitReader(c, 1<<20))
	if err != nil {
		t.Errorf("ask %s for %s: %v", host, line, err)
	}
	return string(answer)
}

// Two sealed guests in two pods reach each other and their node's side by IPv4 and
// IPv6, each as its pod, and nothing else: not what listens on this machine.
func TestPodNetwork(t *testing.T) {
	t.Parallel()
	small(t) // skips
	node, pods := bridged(t, 2)
	p, err := plan("podnet", appImage(t), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Init, p.StopSignal = "", 0
	p.Workload = &owner.Workload{Command: []string{"relay"}, Network: &sealed.Network{Source: sealed.Host}}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	outside, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()

	n := newNode(t)
	for i, ns := range pods {
		pod, err := podnet.Join(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := pod.Resolve([]byte("nameserver 10.77.0.53\nsearch default.svc.cluster.local\noptions ndots:5\n")); err != nil || left != nil {
			t.Fatal(left, err)
		}
		name := fmt.Sprintf("pod-%d", i)
		o, err := pod.Offer(n.path(name+".sock"), func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		_, err = n.c.Create(t.Context(), &hostagentv1.CreateRequest{
			Bundle: p.Bundle, Name: name, Networks: []*hostagentv1.Network{{Kind: "handed", Socket: n.path(name + ".sock"), Mac: pod.MAC}},
		})
		if err == nil {
			_, err = n.c.Start(t.Context(), name, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		// A guest keeps its network and its description, whatever becomes of hostagent.
		if i == 1 {
			for _, name := range []string{"pod-0", name} {
				n.until(name, "running", func(g *hostagentv1.Guest) bool { return g.State == "running" || g.State == "ready" })
			}
			n.kill()
			n.start()
		}
	}
	for i := range pods {
		name := fmt.Sprintf("pod-%d", i)
		if g := n.settled(name); g.State != "ready" {
			t.Fatalf("guest is %v\n%s", g, n.console(name))
		}
		n.says(name, "testapp: waits")
	}
	for i, ns := range pods {
		own, other := fmt.Sprint(i+2), fmt.Sprint(3-i)
		mac := ""
		podnettest.In(t, ns, func(h *netlink.Handle) error {
			link, err := h.LinkByName("eth0")
			mac = link.Attrs().HardwareAddr.String()
			return err
		})
		for _, host := range []string{"10.77.0.", "fd77::"} {
			said := asks(t, node, host+own, "network")
			for _, want := range []string{
				fmt.Sprintf(" %s mtu %d [10.77.0.%s/24 fd77::%s/128 fe80::", mac, podnettest.MTU, own, own),
				"nameserver 10.77.0.53\nsearch default.svc.cluster.local\noptions ndots:5\n", "\nend\n",
			} {
				if !strings.Contains(said, want) {
					t.Errorf("guest %d by %s says no %q: %.600s", i, host, want, said)
				}
			}
			said = asks(t, node, host+own, net.JoinHostPort(host+other, "7777"))
			if !strings.Contains(said, "10.77.0."+other+"/24") || !strings.HasSuffix(said, "\nend\n<nil>") {
				t.Errorf("guest %d hears %.600s from the other one", i, said)
			}
		}
		addresses, err := net.InterfaceAddrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			ip := a.(*net.IPNet).IP
			if ip.IsLoopback() || ip.IsLinkLocalUnicast() {
				continue
			}
			_, port, _ := net.SplitHostPort(outside.Addr().String())
			c, err := net.Dial("tcp", net.JoinHostPort(ip.String(), port))
			if err != nil {
				if now, e := net.InterfaceAddrs(); e == nil && !slices.ContainsFunc(now, func(b net.Addr) bool { return b.String() == a.String() }) {
					continue // of another test, and gone with it
				}
				t.Fatal(err) // this machine itself reaches it
			}
			c.Close()
			if said := asks(t, node, "10.77.0."+own, net.JoinHostPort(ip.String(), port)+" 3s"); !strings.Contains(said, "unreachable") && !strings.Contains(said, "timeout") && !strings.Contains(said, "no route") {
				t.Errorf("guest %d reaches %s: %.200s", i, ip, said)
			}
		}
	}
	for i, ns := range pods {
		if err := podnet.Leave(t.Context(), ns); !errors.Is(err, podnet.ErrInUse) {
			t.Errorf("leave a network that a guest uses: %v", err)
		}
		if _, err := n.c.Kill(t.Context(), fmt.Sprintf("pod-%d", i)); err != nil {
			t.Error(err)
		}
		if err := podnet.Leave(t.Context(), ns); err != nil {
			t.Error(err)
		}
	}
}
