package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/readiness"
)

// The test binary is also the processes of the kill matrix: hostagent itself,
// when it is told so by its environment, and QEMU, when it is started by a link
// of that name.
const (
	roleEnv  = "HOSTAGENT_TEST_ROLE" // "hostagent"
	armEnv   = "HOSTAGENT_TEST_ARM"  // file with the number of the step to die at, counted since it is there
	qemuName = "fake-qemu"
)

func init() {
	switch {
	case filepath.Base(os.Args[0]) == qemuName:
		os.Exit(fakeQEMU(os.Args[1:]))
	case os.Getenv(roleEnv) == "hostagent":
		newFleet = deadly
		main()
		os.Exit(0)
	}
}

// deadly is hostagent's fleet on a platform that accepts every image, with a
// place to die at before and after each step that leaves something behind.
func deadly(ctx context.Context, o guest.Options) (*guest.Fleet, error) {
	d := &steps{arm: os.Getenv(armEnv)}
	accounts(filepath.Join(filepath.Dir(d.arm), "account"))
	o.Platform = accepting{}
	o.Store = &deadlyStore{o.Store, d}
	o.Launcher = &deadlyLauncher{launch.Direct{}, d}
	d.step()
	f, err := guest.NewFleet(ctx, o)
	d.step()
	return f, err
}

// steps counts the places to die at once it is armed.
type steps struct {
	arm string
	mu  sync.Mutex
	n   int
}

func (d *steps) step() {
	text, err := os.ReadFile(d.arm)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if at, _ := strconv.Atoi(string(text)); d.n == at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type deadlyStore struct {
	guest.Records
	d *steps
}

func (s *deadlyStore) Save(g *store.Guest) error {
	s.d.step()
	defer s.d.step()
	return s.Records.Save(g)
}

func (s *deadlyStore) Delete(name string) error {
	s.d.step()
	defer s.d.step()
	return s.Records.Delete(name)
}

type deadlyLauncher struct {
	launch.Launcher
	d *steps
}

func (l *deadlyLauncher) Start(ctx context.Context, spec launch.Spec) (launch.Process, error) {
	l.d.step()
	defer l.d.step()
	return l.Launcher.Start(ctx, spec)
}

func (l *deadlyLauncher) Adopt(ctx context.Context, id launch.Identity) (launch.Process, error) {
	l.d.step()
	defer l.d.step()
	return l.Launcher.Adopt(ctx, id)
}

func (l *deadlyLauncher) FindOrphans(ctx context.Context, uuid string) ([]launch.Process, error) {
	l.d.step()
	defer l.d.step()
	return l.Launcher.FindOrphans(ctx, uuid)
}

// accepting is a platform whose ultravisor accepts every image.
type accepting struct{ platform.Emulated }

func (accepting) HostKeyHashes() ([][32]byte, error) { return nil, platform.ErrHashesUnknown }
func (accepting) Check(context.Context) error        { return nil }
func (accepting) Configure(c *qemu.Config)           { c.Accel, c.CPU = "tcg", "max" }
func (accepting) Boot(ctx context.Context, s platform.BootSpec) error {
	return s.Monitor.Cont(ctx)
}

// fakeQEMU serves the two sockets that hostagent knows a guest by, and has a
// guest in it that is ready at once. A guest whose name begins with a misdeed
// commits it; see misdeeds. Signals are what happens in the guest: USR1 a
// reboot, USR2 a panic, HUP a power-off.
func fakeQEMU(args []string) int {
	if slices.Contains(args, "-version") {
		fmt.Println("QEMU emulator version 7.2.22")
		return 0
	}
	q := &fake{name: argument(args, "-name", "guest=")}
	for i, arg := range args {
		if i > 0 && args[i-1] == "-chardev" {
			if console, ok := strings.CutPrefix(arg, "file,id=console,path="); ok {
				console, _, _ = strings.Cut(console, ",")
				q.console = strings.Replace(console, "/dev/fdset/", "/proc/self/fd/", 1)
			}
		}
	}
	misdeed := misdeeds[strings.SplitN(q.name, "-", 2)[0]]
	if misdeed.begins != nil {
		misdeed.begins(q)
	}
	qmp, err := listenOn(args, "qmp")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	port, err := listenOn(args, "readiness")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	q.qmpListener, q.portListener = qmp, port
	serveQMP, servePort := (*fake).serveQMP, (*fake).servePort
	if misdeed.qmp != nil {
		serveQMP = misdeed.qmp
	}
	if misdeed.port != nil {
		servePort = misdeed.port
	}
	go q.serve(qmp, serveQMP)
	go q.serve(port, servePort)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP)
	signal.Ignore(syscall.SIGTERM)
	reasons := map[os.Signal]string{syscall.SIGUSR1: "guest-reset", syscall.SIGUSR2: "guest-panic", syscall.SIGHUP: "guest-shutdown"}
	q.end(reasons[<-signals])
	return 0
}

func argument(args []string, flag, prefix string) string {
	i := slices.Index(args, flag)
	if i < 0 || i+1 == len(args) {
		return ""
	}
	value, _, _ := strings.Cut(strings.TrimPrefix(args[i+1], prefix), ",")
	return value
}

// listenOn makes or takes over the socket of a chardev.
func listenOn(args []string, id string) (net.Listener, error) {
	for i, arg := range args {
		if i == 0 || args[i-1] != "-chardev" || !strings.HasPrefix(arg, "socket,id="+id+",") {
			continue
		}
		for _, option := range strings.Split(arg, ",") {
			if path, ok := strings.CutPrefix(option, "path="); ok {
				return net.Listen("unix", path)
			}
			if fd, ok := strings.CutPrefix(option, "fd="); ok {
				n, err := strconv.Atoi(fd)
				if err != nil {
					return nil, err
				}
				if err := unix.Listen(n, 1); err != nil { // as QEMU does: the socket's peer is who listened last
					return nil, err
				}
				return net.FileListener(os.NewFile(uintptr(n), id))
			}
		}
	}
	return nil, fmt.Errorf("no socket %s", id)
}

type fake struct {
	name, console             string
	qmpListener, portListener net.Listener

	mu        sync.Mutex
	qmp, port net.Conn
}

func (q *fake) serve(l net.Listener, do func(*fake, net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		do(q, c)
		c.Close()
	}
}

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}` + "\r\n"

func (q *fake) serveQMP(c net.Conn) {
	q.mu.Lock()
	q.qmp = c
	_, _ = io.WriteString(c, greeting)
	q.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		q.answer(c, lines.Bytes())
	}
}

func (q *fake) answer(c net.Conn, line []byte) {
	var command struct {
		Execute string
		ID      uint64
	}
	_ = json.Unmarshal(line, &command)
	q.mu.Lock()
	fmt.Fprintf(c, `{"return":{},"id":%d}`+"\r\n", command.ID)
	q.mu.Unlock()
	if command.Execute == "quit" {
		q.end("host-qmp-quit")
	}
}

func (q *fake) servePort(c net.Conn) {
	q.mu.Lock()
	q.port = c
	q.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		q.guest(c, lines.Text())
	}
}

func (q *fake) guest(c net.Conn, line string) {
	switch verb, rest, _ := strings.Cut(line, " "); verb {
	case "PING":
		fmt.Fprintf(c, "STAGE kernel 1\nSTAGE ready 2\nPONG %s\n", rest)
	case "CHALLENGE":
		nonce, _ := hex.DecodeString(rest)
		fmt.Fprintln(c, readiness.Report{COSE: append([]byte("report over "), nonce...)})
	case "POWEROFF":
		fmt.Fprintln(c, "BYE")
		q.end("guest-shutdown")
	}
}

// end is what QEMU does in the end: it says why, and goes.
func (q *fake) end(reason string) {
	q.mu.Lock()
	if q.qmp != nil {
		_ = q.qmp.SetWriteDeadline(time.Now().Add(time.Second))
		if reason == "guest-panic" {
			fmt.Fprint(q.qmp, `{"event":"GUEST_PANICKED","data":{"action":"shutdown","info":{"type":"s390","reason":"disabled-wait","psw-addr":17,"core":0,"psw-mask":0}},"timestamp":{"seconds":1,"microseconds":2}}`+"\r\n")
		}
		fmt.Fprintf(q.qmp, `{"event":"SHUTDOWN","data":{"guest":true,"reason":%q},"timestamp":{"seconds":1,"microseconds":2}}`+"\r\n", reason)
	}
	os.Exit(0)
}
