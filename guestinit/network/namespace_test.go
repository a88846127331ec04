package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

const inside = "SECEXEC_NETWORK_NAMESPACE"

// TestUp runs this binary's TestInside in namespaces of its own: network,
// mounts and host name.
func TestUp(t *testing.T) {
	if os.Getenv(inside) != "" {
		t.Skip("runs TestInside")
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInside$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		t.Skip("no namespaces here: ", err)
	}
	for line := range strings.Lines(string(out)) {
		if _, why, ok := strings.Cut(line, "namespace test skipped: "); ok {
			t.Skip(strings.TrimSpace(why))
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

func TestInside(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("runs in TestUp's namespaces")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skip("namespace test skipped: no mounts here: ", err)
	}
	if f, err := openTap("probe"); err != nil {
		t.Skip("namespace test skipped: no tap interfaces here: ", err)
	} else {
		f.Close()
	}
	t.Run("no network", testNone)
	t.Run("DHCP", testDHCP)
	t.Run("static", testStatic)
	t.Run("host", testHost)
	t.Run("no server", testNoServer)
	t.Run("two interfaces", testTwo)
	t.Run("QEMU's user network", testSlirp)
	t.Run("files", testFiles)
}

// openTap makes a tap interface. It goes with its file.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(ifr))); errno != 0 {
		unix.Close(fd)
		return nil, errno
	}
	return os.NewFile(uintptr(fd), name), nil
}

func tap(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := openTap(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// guest is an Interface that is to come up on a tap, with a root of its own.
func guest(t *testing.T, n *sealed.Network) *Interface {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return &Interface{plan: n, root: root, dir: filepath.Join(dir, "run"), hostname: "guest.example.org"}
}

// upWithin brings it up. Taps count as devices here.
func upWithin(t *testing.T, i *Interface, d time.Duration) (*Interface, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	got, err := up(ctx, i, func(l link) bool { return l.software && strings.HasPrefix(l.name, "tap") })
	if got != nil {
		t.Cleanup(got.Close)
	}
	t.Cleanup(func() {
		for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
			_ = unix.Unmount(i.root+"/etc/"+name, unix.MNT_DETACH)
		}
	})
	return got, err
}

func has(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, wants %q", what, got, want)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func sysctl(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(text(t, "/proc/sys/net/"+name))
}

// addresses are an interface's, but for those that the kernel gives itself.
func addresses(t *testing.T, name string) string {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, a := range all {
		if !strings.HasPrefix(a.String(), "fe80:") {
			s = append(s, a.String())
		}
	}
	return fmt.Sprintf("%s mtu %d", strings.Join(s, " "), i.MTU)
}

// defaults are IPv4's default routes: interface and gateway, as the kernel
// lists them in its own order of bytes.
func defaults(t *testing.T) string {
	t.Helper()
	var s []string
	for line := range strings.Lines(text(t, "/proc/net/route")) {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			var gateway uint32
			fmt.Sscanf(f[2], "%X", &gateway)
			s = append(s, f[0]+" "+netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, gateway))).String())
		}
	}
	return strings.Join(s, ", ")
}

func testNone(t *testing.T) {
	i := guest(t, nil)
	got, err := upWithin(t, i, 20*time.Second)
	if got != nil || err != nil {
		t.Fatalf("got %v %v", got, err)
	}
	got.Keep(t.Context())
	if conn, err := net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Errorf("loopback is down: %v", err)
	} else {
		conn.Close()
	}
	name, _ := os.Hostname()
	has(t, "host name", name, "guest.example.org")
	has(t, "hostname", text(t, i.root+"/etc/hostname"), "guest.example.org\n")
	has(t, "hosts", text(t, i.root+"/etc/hosts"), "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tguest.example.org guest\n")
	if _, err := os.Lstat(i.root + "/etc/resolv.conf"); err == nil {
		t.Error("a guest without network gets a resolv.conf")
	}
}

// server answers on a tap: DHCP, and ARP for 192.0.2.1.
func server(f *os.File, options func() [][]byte, asked chan<- string) {
	b := make([]byte, 2000)
	own := []byte{2, 0, 0, 0, 0, 1}
	for {
		n, err := f.Read(b)
		if err != nil {
			return
		}
		p := b[:n]
		switch {
		case n >= 42 && binary.BigEndian.Uint16(p[12:]) == 0x0806 && p[21] == 1 && string(p[38:42]) == "\xc0\x00\x02\x01":
			r := append(append(append([]byte{}, p[6:12]...), own...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
			r = append(append(append(append(r, own...), p[38:42]...), p[22:28]...), p[28:32]...)
			f.Write(r)
		case n >= 14+ipSize+udpSize+bootpSize+7 && binary.BigEndian.Uint16(p[12:]) == 0x0800 && p[23] == protoUDP && binary.BigEndian.Uint16(p[36:]) == serverPort:
			q := p[14+ipSize+udpSize:]
			kind := q[bootpSize+4+2]
			asked <- fmt.Sprintf("%d to %d.%d.%d.%d", kind, p[30], p[31], p[32], p[33])
			answer := byte(dhcpOffer)
			if kind == dhcpRequest {
				answer = dhcpAck
			}
			m := said(binary.BigEndian.Uint32(q[4:]), answer, "192.0.2.77", options()...)
			copy(m[28:34], q[28:34])
			ip := frame(m)
			copy(ip[12:], []byte{192, 0, 2, 1, 192, 0, 2, 77})
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:ipSize]))
			binary.BigEndian.PutUint16(ip[ipSize:], serverPort)
			binary.BigEndian.PutUint16(ip[ipSize+2:], clientPort)
			ip[ipSize+6], ip[ipSize+7] = 0, 0
			binary.BigEndian.PutUint16(ip[ipSize+6:], checksum(pseudo(ip), ip[ipSize:]))
			f.Write(append(append(append(append([]byte{}, p[6:12]...), own...), 8, 0), ip...))
		}
	}
}

func testDHCP(t *testing.T) {
	f := tap(t, "tap0")
	asked := make(chan string, 100)
	var options atomic.Pointer[[][]byte]
	first := good(3600)
	options.Store(&first)
	go server(f, func() [][]byte { return *options.Load() }, asked)
	i, err := upWithin(t, guest(t, &sealed.Network{Source: sealed.DHCP, NameServers: []netip.Addr{addr("2001:db8::53")}}), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	has(t, "interface", addresses(t, "tap0"), "192.0.2.77/24 mtu 1400")
	has(t, "default route", defaults(t), "tap0 192.0.2.1")
	has(t, "resolv.conf", text(t, i.root+"/etc/resolv.conf"), "nameserver 2001:db8::53\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch example.org\n")
	if hosts := text(t, i.root+"/etc/hosts"); !strings.Contains(hosts, "192.0.2.77\tguest.example.org guest\n") {
		t.Errorf("hosts is %q", hosts)
	}
	has(t, "accept_ra", sysctl(t, "ipv6/conf/tap0/accept_ra"), "1")
	has(t, "accept_redirects", sysctl(t, "ipv4/conf/tap0/accept_redirects"), "0")
	has(t, "first message", <-asked, "1 to 255.255.255.255")
	has(t, "second message", <-asked, "3 to 255.255.255.255")
	if i.socket != nil {
		t.Error("a socket is open between renewals")
	}

	// T1 has come: the lease is renewed by unicast, with other name servers.
	second := good(7200)
	second[slices.IndexFunc(second, func(o []byte) bool { return o[0] == optDNS })] = option(optDNS, 192, 0, 2, 9)
	options.Store(&second)
	i.client.wake = 0
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan struct{})
	go func() { i.Keep(ctx); close(kept) }()
	has(t, "renewal", <-asked, "3 to 192.0.2.1")
	deadline := time.Now().Add(30 * time.Second)
	for want := "nameserver 2001:db8::53\nnameserver 192.0.2.9\nsearch example.org\n"; text(t, i.root+"/etc/resolv.conf") != want; {
		if time.Now().After(deadline) {
			t.Fatalf("resolv.conf is still %q", text(t, i.root+"/etc/resolv.conf"))
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	select {
	case <-kept:
	case <-time.After(30 * time.Second):
		t.Fatal("Keep does not end")
	}
	if i.Lease().End != 2*time.Hour {
		t.Errorf("lease is %+v", i.Lease())
	}
}

func testStatic(t *testing.T) {
	tap(t, "tap0")
	plan := &sealed.Network{
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24"), netip.MustParsePrefix("2001:db8::7/64")},
		Gateways:  []netip.Addr{addr("198.51.100.1"), addr("fe80::1")}, MTU: 1300, Search: []string{"example.net"},
	}
	i, err := upWithin(t, guest(t, plan), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	has(t, "interface", addresses(t, "tap0"), "198.51.100.7/24 2001:db8::7/64 mtu 1300")
	has(t, "default route", defaults(t), "tap0 198.51.100.1")
	if routes := text(t, "/proc/net/ipv6_route"); !strings.Contains(routes, strings.Repeat("0", 32)+" 00 "+strings.Repeat("0", 32)+" 00 fe80"+strings.Repeat("0", 27)+"1 ") {
		t.Errorf("no IPv6 default route:\n%s", routes)
	}
	// The address is usable at once.
	if conn, err := net.Listen("tcp", "[2001:db8::7]:0"); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	has(t, "accept_ra", sysctl(t, "ipv6/conf/tap0/accept_ra"), "0")
	has(t, "resolv.conf", text(t, i.root+"/etc/resolv.conf"), "search example.net\n")
	i.Keep(t.Context()) // has nothing to keep
}

func testNoServer(t *testing.T) {
	tap(t, "tap0")
	if _, err := upWithin(t, guest(t, &sealed.Network{Source: sealed.DHCP}), 300*time.Millisecond); !errors.Is(err, ErrNoLease) {
		t.Errorf("got %v", err)
	}
}

func testTwo(t *testing.T) {
	if _, err := upWithin(t, guest(t, &sealed.Network{Source: sealed.DHCP}), 100*time.Millisecond); !errors.Is(err, ErrNoInterface) {
		t.Errorf("without an interface: %v", err)
	}
	tap(t, "tap0")
	tap(t, "tap1")
	if _, err := upWithin(t, guest(t, &sealed.Network{Source: sealed.DHCP}), 20*time.Second); !errors.Is(err, ErrTwo) {
		t.Errorf("with two: %v", err)
	}
}

// QEMU's user network is a DHCP server and an IPv6 router of somebody else.
func testSlirp(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skip("no qemu-system-s390x: run cross/setup.sh")
	}
	cmd := exec.Command(qemu, "-machine", "none", "-display", "none", "-nodefaults",
		"-netdev", "user,id=u", "-netdev", "hubport,id=hu,hubid=0,netdev=u",
		"-netdev", "tap,id=t,ifname=tap0,script=no,downscript=no", "-netdev", "hubport,id=ht,hubid=0,netdev=t")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	i, err := upWithin(t, guest(t, &sealed.Network{Source: sealed.DHCP}), Wait)
	if err != nil {
		t.Fatal(err)
	}
	l := i.Lease()
	if l.Address != netip.MustParsePrefix("10.0.2.15/24") || l.Gateway != addr("10.0.2.2") || l.End != 24*time.Hour {
		t.Errorf("lease is %+v", l)
	}
	has(t, "resolv.conf", text(t, i.root+"/etc/resolv.conf"), "nameserver 10.0.2.3\n")
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(addresses(t, "tap0"), "fec0:") {
		if time.Now().After(deadline) {
			t.Fatalf("no address by router advertisement: %s", addresses(t, "tap0"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func testFiles(t *testing.T) {
	n := &sealed.Network{Source: sealed.DHCP}
	l := &Lease{Address: netip.MustParsePrefix("192.0.2.77/24"), NameServers: []netip.Addr{addr("192.0.2.2")}}
	const want = "nameserver 192.0.2.2\n"
	for name, c := range map[string]struct {
		make func(root string) error
		ok   bool
	}{
		"empty root": {func(root string) error { return nil }, true},
		"a file":     {func(root string) error { return os.WriteFile(root+"/etc/resolv.conf", []byte("old\n"), 0o644) }, true},
		"link within": {func(root string) error {
			return errors.Join(os.WriteFile(root+"/file", nil, 0o644), os.Symlink("../file", root+"/etc/resolv.conf"))
		}, true},
		"link out":          {func(root string) error { return os.Symlink("../../outside", root+"/etc/resolv.conf") }, true},
		"absolute link out": {func(root string) error { return os.Symlink(filepath.Dir(root)+"/outside", root+"/etc/resolv.conf") }, true},
		"link to itself":    {func(root string) error { return os.Symlink("resolv.conf", root+"/etc/resolv.conf") }, true},
		"link to proc":      {func(root string) error { return os.Symlink("/proc/self/root/etc/hosts", root+"/etc/resolv.conf") }, true},
		"folder":            {func(root string) error { return os.Mkdir(root+"/etc/resolv.conf", 0o755) }, false},
		"pipe":              {func(root string) error { return unix.Mkfifo(root+"/etc/resolv.conf", 0o644) }, false},
		"read-only, a file": {func(root string) error {
			return errors.Join(os.WriteFile(root+"/etc/resolv.conf", nil, 0o644), readOnly(root))
		}, true},
		"read-only without one": {readOnly, false},
	} {
		root := filepath.Join(t.TempDir(), "root")
		outside := filepath.Dir(root) + "/outside"
		if err := errors.Join(os.MkdirAll(root+"/etc", 0o755), os.WriteFile(outside, []byte("outside"), 0o644), c.make(root)); err != nil {
			t.Fatal(err)
		}
		resolv, err := writeFiles(filepath.Join(filepath.Dir(root), "run"), root, "guest", n, 0, l)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && err == nil {
			has(t, name, text(t, root+"/etc/resolv.conf"), want)
			if err := rewrite(resolv, "new\n"); err != nil {
				t.Error(err)
			}
			has(t, name, text(t, root+"/etc/resolv.conf"), "new\n")
			resolv.Close()
		}
		has(t, name+": file outside", text(t, outside), "outside")
		for _, f := range []string{"hostname", "hosts", "resolv.conf"} {
			_ = unix.Unmount(root+"/etc/"+f, unix.MNT_DETACH)
		}
		_ = unix.Unmount(root, unix.MNT_DETACH)
	}
}

// readOnly mounts a folder over itself, not to be written.
func readOnly(root string) error {
	return errors.Join(unix.Mount(root, root, "", unix.MS_BIND, ""), unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}
