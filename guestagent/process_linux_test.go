package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// asAgent in the environment makes the test binary guestagent.
const asAgent = "SECEXEC_TEST_AS_GUESTAGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what must come.
const testPatience = 30 * time.Second

// process is a guestagent as guestinit starts it, with the test for host,
// guestinit and workload. It is never told of a signal for PID 1: a POWEROFF
// that it obeys comes as STOP to the test.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	host   net.Conn // the host's end of the port
	init   net.Conn // guestinit's end of the socket
	notify string   // the workload's notification socket
	seed   []byte
	ended  chan struct{}

	heard bytes.Buffer // all that the test took of lines
	lines chan string  // said to the host; filled from reads on
}

// secretStatus is what the workload says to its owner, which no host may see.
const secretStatus = "canary-of-the-workload"

// portOf makes a port: the host's end and the guest's.
type portOf func(t *testing.T) (host net.Conn, guest *os.File)

func socketPort(t *testing.T) (net.Conn, *os.File) {
	host, guest := pair(t, unix.SOCK_STREAM)
	return host, guest
}

// noPort is a guest without a port.
func noPort(t *testing.T) (net.Conn, *os.File) {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return nil, f
}

// pair makes a socket pair: a connection for the test, a file for the child.
func pair(t *testing.T, kind int) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine := os.NewFile(uintptr(fds[0]), "mine")
	defer mine.Close()
	c, err := net.FileConn(mine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, os.NewFile(uintptr(fds[1]), "theirs")
}

// handoffOf is a guest's whose program guestinit runs, with an identity of seed.
func handoffOf(seed, boot byte) *sealed.Handoff {
	return &sealed.Handoff{
		IdentitySeed: bytes.Repeat([]byte{seed}, 32), ImageID: [16]byte{seed, 1}, RootID: [16]byte{2}, BootID: [16]byte{boot},
		Ready: sealed.ReadyAtNotify, Stages: []sealed.Stage{{Name: readiness.StageKernel, Millis: 1}},
	}
}

// started starts guestagent up to where the workload runs.
func started(t *testing.T, port portOf) *process {
	t.Helper()
	p := starting(t, port, handoffOf(0xa7, 3))
	p.tell(workload.Running{})
	if p.host != nil {
		p.reads()
	}
	return p
}

func starting(t *testing.T, port portOf, h *sealed.Handoff) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, seed: bytes.Clone(h.IdentitySeed), ended: make(chan struct{})}
	dir, err := os.MkdirTemp("", "n") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p.notify = filepath.Join(dir, "n")
	var initFile, portFile, notifyFile *os.File
	p.init, initFile = pair(t, unix.SOCK_SEQPACKET)
	p.host, portFile = port(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: p.notify})
	}
	if err != nil {
		t.Fatal(err)
	}
	notifyFile = os.NewFile(uintptr(fd), "notify")
	raw, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p.write(p.init, raw) // it waits in the socket
	p.cmd = exec.Command(exe)
	p.cmd.Env = []string{asAgent + "=1", "GOCOVERDIR=" + dir}
	p.cmd.ExtraFiles = []*os.File{initFile, portFile, notifyFile}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Skipf("this test binary can't run itself here: %v", err)
	}
	for _, f := range p.cmd.ExtraFiles {
		f.Close()
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		select {
		case <-p.ended:
			t.Error("guestagent ended")
		default:
		}
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.noCanary()
	})
	return p
}

// reads begins to read what guestagent says to the host.
func (p *process) reads() *process {
	p.lines = make(chan string, 1<<16)
	go func() {
		defer close(p.lines)
		for r := bufio.NewReader(p.host); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			p.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return p
}

func (p *process) write(c net.Conn, b []byte) {
	p.t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(testPatience))
	if _, err := c.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// tell is what guestinit says.
func (p *process) tell(m workload.Message) { p.t.Helper(); p.write(p.init, m.Bytes()) }

// hosts is what the host writes.
func (p *process) hosts(text string) { p.t.Helper(); p.write(p.host, []byte(text)) }

// says is what the workload says.
func (p *process) says(text string) {
	p.t.Helper()
	c, err := net.Dial("unixgram", p.notify)
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	p.write(c, []byte(text))
}

// asked returns what guestagent tells guestinit next, "" if nothing for a while.
func (p *process) asked(wait time.Duration) string {
	b := make([]byte, 100)
	_ = p.init.SetReadDeadline(time.Now().Add(wait))
	n, err := p.init.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// line returns the next line to the host.
func (p *process) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("the port is closed")
		}
		p.heard.WriteString(line + "\n")
		return line
	case <-time.After(testPatience):
		p.t.Fatal("guestagent says nothing")
		return ""
	}
}

// rest takes all that was said up to now.
func (p *process) rest() (lines []string) {
	for len(p.lines) > 0 {
		lines = append(lines, p.line())
	}
	return lines
}

// until reads lines up to one that begins so, and returns all.
func (p *process) until(prefix string) (lines []string) {
	p.t.Helper()
	for {
		line := p.line()
		if lines = append(lines, line); strings.HasPrefix(line, prefix) {
			return lines
		}
	}
}

// goesOn wants guestagent to do its work still, for host, workload and guestinit.
func (p *process) goesOn() {
	p.t.Helper()
	if p.host != nil {
		p.hosts("\nHELLO 2 hostagent\nPING beef\n")
		p.until("PONG beef")
		p.says("READY=1\nSTATUS=" + secretStatus)
		p.until("STAGE ready")
		if _, err := p.proof(); err != nil {
			p.t.Error(err)
		}
	}
	p.works()
}

// works is goesOn where there is no host.
func (p *process) works() {
	p.t.Helper()
	p.says("WATCHDOG=trigger")
	if got := p.asked(testPatience); got != "RESTART" {
		p.t.Errorf("guestinit is told %q, wants RESTART", got)
	}
}

// proof asks for a report over a nonce of this test's and verifies it.
func (p *process) proof() (*report.Claims, error) {
	p.t.Helper()
	nonce := [32]byte([]byte(fmt.Sprintf("%032d", time.Now().UnixNano())))
	return p.check(nonce, p.challenge(nonce))
}

func (p *process) challenge(nonce [32]byte) []byte {
	p.t.Helper()
	p.hosts(readiness.Challenge{Nonce: nonce}.String() + "\n")
	lines := p.until("REPORT ")
	m, err := readiness.ParseGuest(lines[len(lines)-1])
	if err != nil {
		p.t.Fatal(err)
	}
	return m.(readiness.Report).COSE
}

func (p *process) check(nonce [32]byte, raw []byte) (*report.Claims, error) {
	return report.Verify(ed25519.NewKeyFromSeed(p.seed).Public().(ed25519.PublicKey), nonce[:], raw)
}

// noCanary wants nothing secret in what the host heard.
func (p *process) noCanary() {
	for name, canary := range map[string]string{
		"the identity seed": string(p.seed), "the seed in hex": hex.EncodeToString(p.seed)[:32],
		"the seed in base64": base64.StdEncoding.EncodeToString(p.seed)[:24], "the workload's status": secretStatus,
	} {
		if strings.Contains(p.heard.String(), canary) {
			p.t.Errorf("the host heard %s", name)
		}
	}
}

// usage is guestagent's CPU time, its resident memory in KiB, and how often it
// woke up.
func (p *process) usage() (cpu time.Duration, rss, wakes int) {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	utime, _ := strconv.Atoi(f[11])
	stime, _ := strconv.Atoi(f[12])
	rss, _ = strconv.Atoi(f[21])
	tasks, _ := filepath.Glob(dir + "task/*/status")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		if _, after, ok := strings.Cut(string(text), "\nvoluntary_ctxt_switches:"); ok {
			n, _ := strconv.Atoi(strings.Fields(after)[0])
			wakes += n
		}
	}
	return time.Duration(utime+stime) * 10 * time.Millisecond, rss * os.Getpagesize() >> 10, wakes
}

// bounded runs an attack and wants it to cost little memory and CPU.
func (p *process) bounded(attack func()) {
	p.t.Helper()
	p.hosts("PING 0\n")
	p.until("PONG 0")
	cpu, rss, _ := p.usage()
	begun := time.Now()
	attack()
	cpu2, rss2, _ := p.usage()
	if rss2-rss > 8<<10 {
		p.t.Errorf("takes %d KiB more", rss2-rss)
	}
	// 64 lines and 64 reads a second, each well below a millisecond of any machine.
	if took, limit := cpu2-cpu, time.Since(begun)/2+300*time.Millisecond; took > limit {
		p.t.Errorf("takes %s of CPU in %s", took, time.Since(begun))
	}
}

// flood writes as much as guestagent takes within a time, and reads nothing.
func (p *process) flood(what []byte, d time.Duration) (taken int) {
	_ = p.host.SetWriteDeadline(time.Now().Add(d))
	for {
		n, err := p.host.Write(what)
		if taken += n; err != nil {
			return taken
		}
	}
}

// signalled sends guestagent a signal.
func (p *process) signalled(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }
