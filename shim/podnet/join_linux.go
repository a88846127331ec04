package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Join makes the guest's tap interface in a pod's network namespace, joins it to
// the plugin's interface, and describes the network but for its name servers.
// Done twice it changes nothing; while a guest uses the tap interface it is
// refused with ErrInUse: one guest has a pod's network.
func Join(ctx context.Context, netns string) (*Pod, error) {
	pod := &Pod{NetNS: netns}
	err := within(ctx, netns, func(h *netlink.Handle) error {
		link, err := pluginsLink(h)
		if err != nil {
			return err
		}
		pod.Interface, pod.MAC = link.Attrs().Name, link.Attrs().HardwareAddr.String()
		f, err := ask(h, link)
		if err != nil {
			return err
		}
		if pod.Description, err = describe(f); err != nil {
			return err
		}
		tap, err := makeTap(h, link.Attrs().MTU)
		if err != nil {
			return err
		}
		// The guest's way out first: what answers must find the way in.
		for _, way := range [][2]netlink.Link{{tap, link}, {link, tap}} {
			if err := redirect(h, way[0], way[1]); err != nil {
				return fmt.Errorf("lead %s to %s: %w", way[0].Attrs().Name, way[1].Attrs().Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("join pod's network %s: %w", netns, err)
	}
	return pod, nil
}

// Leave undoes Join, as far as it came. A namespace that is gone took all with it;
// while a guest uses the tap interface nothing changes, and the error is ErrInUse.
func Leave(ctx context.Context, netns string) error {
	err := within(ctx, netns, func(h *netlink.Handle) error {
		// The tap first: what arrives for the guest then is dropped, and not answered
		// by the kernel, which has the guest's addresses too.
		tap, err := h.LinkByName(Tap)
		if err == nil {
			if err := free(); err != nil {
				return err
			}
			err = h.LinkDel(tap)
		}
		if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
			return fmt.Errorf("remove %s: %w", Tap, err)
		}
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, link := range links {
			if err := release(h, link); err != nil {
				return fmt.Errorf("free %s: %w", link.Attrs().Name, err)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errGone) {
		return fmt.Errorf("leave pod's network %s: %w", netns, err)
	}
	return nil
}

// pluginsLink finds the one interface that the network plugin made.
func pluginsLink(h *netlink.Handle) (netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []netlink.Link
	var names []string
	for _, link := range links {
		// What is not up are devices that the kernel makes in each namespace.
		a := link.Attrs()
		if a.EncapType == "ether" && a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.Name != Tap {
			found, names = append(found, link), append(names, a.Name)
		}
	}
	switch len(found) {
	case 0:
		return nil, unfit("it has no interface")
	case 1:
		return found[0], nil
	}
	return nil, unfit("it has the interfaces %s, and a guest has one", strings.Join(names, ", "))
}

// ask collects the facts of an interface.
func ask(h *netlink.Handle, link netlink.Link) (f facts, err error) {
	f = facts{mtu: link.Attrs().MTU, neighbours: make(map[netip.Addr][6]byte)}
	addresses, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return f, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		f.addresses = append(f.addresses, prefixOf(a.IPNet, a.IP))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteList(link, family)
		if err != nil {
			return f, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			to := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if family == netlink.FAMILY_V6 {
				to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			if r.Dst != nil {
				to = prefixOf(r.Dst, r.Dst.IP)
			}
			via, _ := netip.AddrFromSlice(r.Gw)
			f.routes = append(f.routes, route{to: to, via: via.Unmap()})
		}
	}
	neighbours, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return f, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range neighbours {
		if a, ok := netip.AddrFromSlice(n.IP); ok && n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			f.neighbours[a.Unmap()] = [6]byte(n.HardwareAddr)
		}
	}
	return f, nil
}

func prefixOf(mask *net.IPNet, ip net.IP) netip.Prefix {
	a, _ := netip.AddrFromSlice(ip)
	bits, _ := mask.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

// makeTap makes the tap interface, or takes the one that is there.
func makeTap(h *netlink.Handle, mtu int) (netlink.Link, error) {
	tap, err := h.LinkByName(Tap)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if err = persistTap(); err == nil {
			tap, err = h.LinkByName(Tap)
		}
	} else if err == nil {
		err = free()
	}
	if err != nil {
		return nil, fmt.Errorf("make tap interface %s: %w", Tap, err)
	}
	// The namespace's kernel is to say nothing to the guest of itself.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+Tap+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("keep %s without IPv6: %w", Tap, err)
	}
	if err := errors.Join(h.LinkSetMTU(tap, mtu), h.LinkSetUp(tap)); err != nil {
		return nil, fmt.Errorf("raise %s: %w", Tap, err)
	}
	return tap, nil
}

// free refuses a tap interface that a guest uses.
func free() error {
	f, err := attachTap()
	switch {
	case errors.Is(err, unix.EBUSY):
		return ErrInUse
	case err != nil:
		return err
	}
	return f.Close()
}

func persistTap() error {
	f, err := attachTap()
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOWNER, 0), unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1))
}

// attachTap opens the queue of the tap interface in the thread's namespace, and
// makes it where there is none.
func attachTap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w: load the kernel module tun", err)
	}
	request, err := unix.NewIfreq(Tap)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open tap interface %s: %w", Tap, err)
	}
	return os.NewFile(uintptr(fd), Tap), nil
}
