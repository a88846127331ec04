// Package podnettest makes pods' network namespaces for tests, as network plugins
// make them. It wants root.
package podnettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MTU is that of the interfaces of Pair.
const MTU = 1400

// Namespace makes a network namespace that lives as long as the test, and returns
// a path of it for this process. Where there are none, no tap interfaces, or no
// rtnetlink as the kernel has it, which qemu-user passes on in parts, the test is
// skipped.
func Namespace(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no tap interfaces here: ", err)
	}
	fd := -1
	err := apart(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if _, err := h.LinkList(); err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Skip("no network namespaces here: ", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
}

// In runs something on a thread in a namespace.
func In(t *testing.T, ns string, do func(h *netlink.Handle) error) {
	t.Helper()
	err := apart(func() error {
		at, err := os.Open(ns)
		if err != nil {
			return err
		}
		defer at.Close()
		if err := unix.Setns(int(at.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return do(h)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// apart runs something on a thread that ends with it.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// Pair makes a veth pair: inside in one namespace, outside in another. A bridge,
// where it is not "", takes the outer end.
func Pair(t *testing.T, insideNS, inside, outsideNS, outside, bridge string) {
	t.Helper()
	at, err := os.Open(outsideNS)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: inside, MTU: MTU}, PeerName: outside, PeerNamespace: netlink.NsFd(at.Fd())}
	In(t, insideNS, func(h *netlink.Handle) error {
		if err := h.LinkAdd(veth); err != nil {
			t.Log("no veth interfaces here?")
			return err
		}
		return nil
	})
	if bridge == "" {
		return
	}
	In(t, outsideNS, func(h *netlink.Handle) error {
		br, err := h.LinkByName(bridge)
		if err != nil {
			return err
		}
		end, err := h.LinkByName(outside)
		if err != nil {
			return err
		}
		return errors.Join(h.LinkSetMaster(end, br), h.LinkSetUp(end))
	})
}

// Up raises an interface, and loopback, with addresses that are usable at once and
// default routes.
func Up(h *netlink.Handle, name string, addresses []netip.Prefix, gateways ...netip.Addr) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for _, p := range addresses {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := h.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, name, err)
		}
	}
	if err := errors.Join(h.LinkSetUp(lo), h.LinkSetUp(link)); err != nil {
		return fmt.Errorf("raise %s: %w", name, err)
	}
	for _, g := range gateways {
		if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("add default route by %s: %w", g, err)
		}
	}
	return nil
}
