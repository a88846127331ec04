package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/shim/podnet/podnettest"
)

const mtu = podnettest.MTU

// fakePod makes a pod's namespace as a network plugin does, with a peer in a
// namespace of its own.
func fakePod(t *testing.T) (pod, peer string) {
	t.Helper()
	pod, peer = podnettest.Namespace(t), podnettest.Namespace(t)
	podnettest.Pair(t, pod, "eth0", peer, "peer0", "")
	podnettest.In(t, peer, func(h *netlink.Handle) error {
		return podnettest.Up(h, "peer0", []netip.Prefix{prefix("10.77.0.1/24"), prefix("fd77::1/64"), prefix("10.99.0.1/32")})
	})
	podnettest.In(t, pod, func(h *netlink.Handle) error {
		return podnettest.Up(h, "eth0", []netip.Prefix{prefix("10.77.0.2/24"), prefix("fd77::2/64")}, netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1"))
	})
	return pod, peer
}

func join(t *testing.T, pod string) *Pod {
	t.Helper()
	p, err := Join(t.Context(), pod)
	for _, missing := range []error{unix.EPERM, unix.EOPNOTSUPP} {
		if errors.Is(err, missing) {
			t.Skip("this machine can't join a pod's network: ", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// guest is a kernel in a namespace of its own behind a pod's tap interface, with
// the frames carried as QEMU carries them: as they come, headers of offloads too.
func guest(t *testing.T, p *Pod, queue *os.File) (ns string, stop func()) {
	t.Helper()
	ns = podnettest.Namespace(t)
	var nic *os.File
	podnettest.In(t, ns, func(h *netlink.Handle) (err error) {
		if nic, err = attachTap(); err != nil {
			return err
		}
		link, err := h.LinkByName(Tap)
		if err != nil {
			return err
		}
		mac, err := net.ParseMAC(p.MAC)
		if err != nil {
			return err
		}
		if err := errors.Join(h.LinkSetHardwareAddr(link, mac), h.LinkSetMTU(link, int(p.Description.MTU))); err != nil {
			return err
		}
		return podnettest.Up(h, Tap, p.Description.Addresses, p.Description.Gateways[0].Address, p.Description.Gateways[1].Address)
	})
	for _, f := range []*os.File{nic, queue} {
		// TSO and checksums are offered both ways, as virtio-net does.
		if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			t.Fatal(err)
		}
	}
	// Anew, for the runtime to wait by its poller.
	a, b := os.NewFile(uintptr(dup(t, nic)), "guest"), os.NewFile(uintptr(dup(t, queue)), "queue")
	nic.Close()
	queue.Close()
	done := make(chan struct{}, 2)
	carry := func(from, to *os.File) {
		defer func() { done <- struct{}{} }()
		frame := make([]byte, 128<<10)
		for {
			n, err := from.Read(frame)
			if err != nil {
				return
			}
			_, _ = to.Write(frame[:n])
		}
	}
	go carry(a, b)
	go carry(b, a)
	stop = sync.OnceFunc(func() { a.Close(); b.Close(); <-done; <-done })
	t.Cleanup(stop)
	return ns, stop
}

func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// exchange sends a lot there and back by TCP, from one namespace to another.
func exchange(t *testing.T, from, to, address string) {
	t.Helper()
	var l net.Listener
	podnettest.In(t, to, func(*netlink.Handle) (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	var c net.Conn
	podnettest.In(t, from, func(*netlink.Handle) (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 30*time.Second)
		return err
	})
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	sent := strings.Repeat("through the pod's namespace ", 40<<10) // more than an MiB
	go func() {
		_, _ = io.WriteString(c, sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != sent {
		t.Errorf("%s: %d bytes of %d came back, %v", address, len(got), len(sent), err)
	}
}

// state lists what is in a pod's namespace beyond what its plugin made.
func state(t *testing.T, pod string) (out []string) {
	t.Helper()
	podnettest.In(t, pod, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			if a := link.Attrs(); a.EncapType == "ether" && a.Flags&net.FlagUp != 0 {
				ours, others, err := filters(h, link)
				if err != nil {
					ours, others = nil, nil // no hook
				}
				out = append(out, fmt.Sprintf("%s mtu %d: %d filters of ours, %d others", a.Name, a.MTU, len(ours), len(others)))
			}
		}
		return nil
	})
	return out
}

func TestJoin(t *testing.T) {
	t.Parallel()
	pod, peer := fakePod(t)
	p := join(t, pod)
	want := network.Description{
		MTU: mtu, Addresses: []netip.Prefix{prefix("10.77.0.2/24"), prefix("fd77::2/64")},
		Gateways: []network.Gateway{{Address: netip.MustParseAddr("10.77.0.1")}, {Address: netip.MustParseAddr("fd77::1")}},
	}
	if p.Interface != "eth0" || p.NetNS != pod || !reflect.DeepEqual(p.Description, want) {
		t.Errorf("found %+v, wants %+v", p, want)
	}
	joined := []string{"eth0 mtu 1400: 1 filters of ours, 0 others", "secexec0 mtu 1400: 1 filters of ours, 0 others"}
	for range 2 {
		if got := state(t, pod); !reflect.DeepEqual(got, joined) {
			t.Errorf("joined: %q", got)
		}
		if again := join(t, pod); !reflect.DeepEqual(again, p) {
			t.Errorf("again: %+v", again)
		}
	}

	o, err := p.Offer(filepath.Join(shortDir(t), "tap.sock"), func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	queue, description := take(t, o)
	defer queue.Close()
	if d, err := network.Unmarshal(description); err != nil || !reflect.DeepEqual(*d, p.Description) {
		t.Errorf("handed over: %+v, %v", d, err)
	}
	if _, err := net.DialUnix("unixpacket", nil, o.listener.Addr().(*net.UnixAddr)); err != nil {
		t.Error(err) // gets nothing: the interface is in use
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	ns, stop := guest(t, p, queue)
	for _, address := range []string{"10.77.0.2", "fd77::2"} {
		exchange(t, peer, ns, address)
	}
	for _, address := range []string{"10.77.0.1", "fd77::1", "10.99.0.1"} {
		exchange(t, ns, peer, address)
	}

	if _, err := Join(t.Context(), pod); !errors.Is(err, ErrInUse) {
		t.Errorf("join while a guest is there: %v", err)
	}
	if err := Leave(t.Context(), pod); !errors.Is(err, ErrInUse) {
		t.Errorf("leave while a guest is there: %v", err)
	}
	stop()

	// What the pod had serves its own kernel again, and nothing of ours is left.
	for range 2 {
		if err := Leave(t.Context(), pod); err != nil {
			t.Error(err)
		}
		if got := state(t, pod); !reflect.DeepEqual(got, []string{"eth0 mtu 1400: 0 filters of ours, 0 others"}) {
			t.Errorf("left: %q", got)
		}
	}
	podnettest.In(t, pod, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		qdiscs, err := h.QdiscList(link)
		for _, q := range qdiscs {
			if q.Type() == "ingress" {
				t.Error("the hook is left")
			}
		}
		return err
	})
	exchange(t, peer, pod, "10.77.0.2")
}

// A join that was cut off anywhere is made whole by the next, or undone.
func TestJoinAfterCuts(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(h *netlink.Handle, eth0 netlink.Link) error{
		"tap alone": func(h *netlink.Handle, eth0 netlink.Link) error { return persistTap() },
		"hook alone": func(h *netlink.Handle, eth0 netlink.Link) error {
			return h.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: ingress, Parent: netlink.HANDLE_INGRESS}})
		},
		"tap is gone": func(h *netlink.Handle, eth0 netlink.Link) error {
			tap, err := makeTap(h, mtu)
			if err != nil {
				return err
			}
			return errors.Join(redirect(h, eth0, tap), h.LinkDel(tap))
		},
	} {
		for _, undo := range []bool{false, true} {
			pod, _ := fakePod(t)
			podnettest.In(t, pod, func(h *netlink.Handle) error {
				eth0, err := h.LinkByName("eth0")
				if err == nil {
					err = cut(h, eth0)
				}
				if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
					t.Skip("this machine can't join a pod's network: ", err)
				}
				return err
			})
			want := []string{"eth0 mtu 1400: 1 filters of ours, 0 others", "secexec0 mtu 1400: 1 filters of ours, 0 others"}
			var err error
			if undo {
				want = []string{"eth0 mtu 1400: 0 filters of ours, 0 others"}
				err = Leave(t.Context(), pod)
			} else {
				_, err = Join(t.Context(), pod)
			}
			if got := state(t, pod); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, undo %v: %q, %v", name, undo, got, err)
			}
		}
	}
}

func TestJoinRefusals(t *testing.T) {
	t.Parallel()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := Join(t.Context(), fmt.Sprintf("/proc/self/fd/%d", own.Fd())); !errors.Is(err, ErrHostNetwork) {
		t.Errorf("the node's own network: %v", err)
	}
	gone := filepath.Join(t.TempDir(), "ns")
	if _, err := Join(t.Context(), gone); !errors.Is(err, errGone) {
		t.Errorf("no namespace: %v", err)
	}
	if err := Leave(t.Context(), gone); err != nil {
		t.Errorf("leave a namespace that is gone: %v", err)
	}
	if err := os.WriteFile(gone, nil, 0o600); err != nil { // what is left where a namespace was mounted
		t.Fatal(err)
	}
	if err := Leave(t.Context(), gone); err != nil {
		t.Errorf("leave what was a namespace: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Join(ended, gone); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	if _, err := Join(t.Context(), podnettest.Namespace(t)); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), "no interface") {
		t.Errorf("empty namespace: %v", err)
	}
	for name, c := range map[string]struct {
		spoil func(h *netlink.Handle, eth0 netlink.Link) error
		words string
	}{
		"second interface": {func(h *netlink.Handle, eth0 netlink.Link) error {
			dummy := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}, PeerName: "net2"}
			return errors.Join(h.LinkAdd(dummy), h.LinkSetUp(dummy))
		}, "interfaces eth0, net1"},
		"filter of another program": {func(h *netlink.Handle, eth0 netlink.Link) error {
			f := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index, Parent: ingress, Priority: 7, Protocol: unix.ETH_P_ALL}, Actions: []netlink.Action{netlink.NewMirredAction(1)}}
			return errors.Join(h.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: ingress, Parent: netlink.HANDLE_INGRESS}}), h.FilterAdd(f))
		}, "another program filters"},
		"hook of another program": {func(h *netlink.Handle, eth0 netlink.Link) error {
			return h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: ingress, Parent: netlink.HANDLE_CLSACT}})
		}, "clsact"},
	} {
		pod, _ := fakePod(t)
		podnettest.In(t, pod, func(h *netlink.Handle) error {
			eth0, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			return c.spoil(h, eth0)
		})
		before := state(t, pod)
		if _, err := Join(t.Context(), pod); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Leave(t.Context(), pod); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after := state(t, pod); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: %q, was %q", name, after, before)
		}
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// take takes over what is offered.
func take(t *testing.T, o *Offer) (*os.File, []byte) {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, o.listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	b, rights := make([]byte, network.MaxSize+1), make([]byte, unix.CmsgSpace(8))
	n, m, _, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	return os.NewFile(uintptr(fds[0]), "queue"), b[:n]
}
