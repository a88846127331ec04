package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/proto/workload"
)

// ignored are lines that change nothing and are not answered.
var ignored = map[string]string{
	"line of NULs":            strings.Repeat("\x00", 100) + "\n",
	"NUL behind a line":       "POWEROFF\x00\n",
	"NUL before a line":       "\x00POWEROFF\n",
	"high bytes":              "\xff\xfePOWEROFF\xff\n\xc3\xa9\n",
	"carriage return":         "POWEROFF\r\n",
	"lower case":              "poweroff\nping 0\n",
	"blanks":                  " POWEROFF\nPOWEROFF \nPOWEROFF 1\nPING  0\nPING\t0\n",
	"unknown verbs":           "EXEC /bin/sh\nREBOOT\nKEYS\nREADY=1\nRESTART\nSTOP\nDONE 0\n",
	"terminal escapes":        "\x1b]0;x\x07\x1b[2J\n",
	"guest's own lines":       "STAGE ready 1\nFAIL G101 1\nREPORT AQID\nBYE\nEXIT 0\nHEALTHY\nHELLO 2 guestagent 00000000000000000000000000000000\n",
	"empty lines":             strings.Repeat("\n", 30),
	"nonce of 31 bytes":       "CHALLENGE " + strings.Repeat("00", 31) + "\n",
	"nonce of 33 bytes":       "CHALLENGE " + strings.Repeat("00", 33) + "\n",
	"nonce in upper case":     "CHALLENGE " + strings.Repeat("AA", 32) + "\n",
	"no nonce":                "CHALLENGE\nCHALLENGE \n",
	"nonce of other letters":  "CHALLENGE " + strings.Repeat("zz", 32) + "\n",
	"token of 33 digits":      "PING " + strings.Repeat("0", 33) + "\n",
	"version 0":               "HELLO 0 hostagent\n",
	"version -1":              "HELLO -1 hostagent\n",
	"version 65537":           "HELLO 65537 hostagent\n",
	"oversized line":          strings.Repeat("x", 1<<16) + "\n",
	"request in oversized":    strings.Repeat("x", readiness.MaxLine) + "POWEROFF\n",
	"request behind a half":   "half of a linePOWEROFF\n",
	"random bytes":            random(1<<13) + "\n",
	"a line of just too much": "PING " + strings.Repeat("0", readiness.MaxLine-5) + "\n",
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return string(b)
}

// attacks are what a host may do to the port, or to what comes over it.
var attacks = map[string]func(t *testing.T){
	"port absent": func(t *testing.T) { started(t, noPort).works() },
	"port closed": func(t *testing.T) {
		p := started(t, socketPort)
		p.host.Close()
		p.works()
	},
	"port unplugged": func(t *testing.T) {
		var master *os.File
		p := starting(t, func(t *testing.T) (net.Conn, *os.File) {
			var guest *os.File
			master, guest = pty(t)
			return nil, guest
		}, handoffOf(0xa7, 3))
		p.tell(workload.Running{})
		master.Close() // reads fail with EIO from now on
		p.works()
	},
	"port never read": func(t *testing.T) {
		p := starting(t, socketPort, handoffOf(0xa7, 3))
		p.tell(workload.Running{})
		p.works()
		_, before, _ := p.usage()
		for range 3 {
			p.flood([]byte(strings.Repeat("PING 0\n", 1000)), 300*time.Millisecond)
			p.works() // its workload never waits for the host
		}
		if _, after, _ := p.usage(); after-before > 8<<10 {
			t.Errorf("takes %d KiB more", after-before)
		}
		p.reads() // lines are whole yet
		for deadline := time.Now().Add(testPatience); !slices.Contains(p.rest(), "PONG 0"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no whole line")
			}
		}
	},
	"silent host": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("PING 0\n")
		p.until("PONG 0")
		time.Sleep(500 * time.Millisecond)
		_, _, before := p.usage()
		time.Sleep(2 * time.Second)
		if _, _, after := p.usage(); after-before > 2 { // the Go runtime's own may wake once
			t.Errorf("woke up %d times in 2 s with nothing to do", after-before)
		}
		p.goesOn()
	},
	"hung-up port does not keep it awake": func(t *testing.T) {
		p := started(t, socketPort)
		p.host.Close()
		time.Sleep(500 * time.Millisecond)
		_, _, before := p.usage()
		time.Sleep(2 * time.Second)
		if _, _, after := p.usage(); after-before > 2 {
			t.Errorf("woke up %d times in 2 s", after-before)
		}
		p.works()
	},
	"flood of PING": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() { p.flood([]byte(strings.Repeat("PING 0\n", 500)), time.Second) })
		p.works()
	},
	"flood of garbage": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() { p.flood([]byte(random(1<<16)), time.Second) })
		p.works()
	},
	"flood of line feeds": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() { p.flood([]byte(strings.Repeat("\n", 1<<16)), time.Second) })
		p.works()
	},
	"flood without line feeds": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() { p.flood(bytes.Repeat([]byte{'x'}, 1<<16), time.Second) })
		p.works()
	},
	"flood of single bytes": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() {
			for range 100 {
				p.hosts("x")
				time.Sleep(time.Millisecond)
			}
		})
		p.goesOn()
	},
	"thousand challenges": func(t *testing.T) {
		p := started(t, socketPort)
		begun := time.Now()
		p.bounded(func() {
			p.flood([]byte(strings.Repeat(readiness.Challenge{}.String()+"\n", 1000)), time.Second)
		})
		reports := 0
		for _, line := range p.rest() {
			if strings.HasPrefix(line, "REPORT ") {
				reports++
			}
		}
		if limit := 64 * (2 + int(time.Since(begun)/time.Second)); reports == 0 || reports > limit {
			t.Errorf("%d reports in %s", reports, time.Since(begun))
		}
		p.works()
	},
	"half a line, then silence": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("POWEROFF")
		if got := p.asked(300 * time.Millisecond); got != "" {
			t.Errorf("obeys half a line: %s", got)
		}
		p.hosts(" is not what I meant\n")
		p.goesOn()
	},
	"a line in two halves": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("POWE")
		time.Sleep(50 * time.Millisecond)
		p.hosts("ROFF\n")
		if got := p.asked(testPatience); got != "STOP" {
			t.Errorf("guestinit is told %q", got)
		}
		p.goesOn()
	},
	"POWEROFF twice": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("POWEROFF\nPOWEROFF\nPOWEROFF\n")
		if got := p.asked(testPatience); got != "STOP" {
			t.Errorf("guestinit is told %q", got)
		}
		if got := p.asked(300 * time.Millisecond); got != "" {
			t.Errorf("guestinit is told once more: %s", got)
		}
		p.goesOn()
	},
	"POWEROFF before the hand-over": func(t *testing.T) {
		p := starting(t, socketPort, handoffOf(0xa7, 3)).reads()
		p.hosts("POWEROFF\n")
		p.until("BYE")
		if got := p.asked(300 * time.Millisecond); got != "" {
			t.Errorf("guestinit is told %s before there is a workload", got)
		}
		p.tell(workload.Running{})
		if got := p.asked(testPatience); got != "STOP" {
			t.Errorf("guestinit is told %q", got)
		}
		p.goesOn()
	},
	"host claims READY=1": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("READY=1\nSTAGE ready 1\nPING 0\n")
		if lines := p.until("PONG 0"); slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "STAGE ready") }) {
			t.Errorf("says %q", lines)
		}
		if c, err := p.proof(); err != nil || c.Passed(readiness.StageReady) || c.ReadyAt != "notify" {
			t.Errorf("report %+v %v", c, err)
		}
		p.goesOn()
	},
	"downgrade of version": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("HELLO 1 hostagent\n")
		if c, err := p.proof(); err != nil || c.Profile != report.Profile || c.RootMode != "crypt" {
			t.Errorf("report of version 1: %+v %v", c, err)
		}
		p.goesOn()
	},
	"version of the future": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("HELLO 9999 hostagent\n")
		p.goesOn()
	},
	"replayed report": func(t *testing.T) {
		p := started(t, socketPort)
		old := p.challenge([32]byte{1})
		if _, err := p.check([32]byte{2}, old); !errors.Is(err, report.ErrNonce) {
			t.Errorf("%v", err)
		}
		var host readiness.Host
		host.Ask([32]byte{2})
		if told := host.Read([]byte(readiness.Report{COSE: old}.String() + "\n")); len(told) > 0 {
			t.Error("the host hands it on")
		}
		p.goesOn()
	},
	"old nonce": func(t *testing.T) {
		p := started(t, socketPort)
		first := p.challenge([32]byte{1})
		p.says("READY=1")
		p.until("STAGE ready")
		again := p.challenge([32]byte{1})
		if a, err := p.check([32]byte{1}, first); err != nil || a.Passed(readiness.StageReady) {
			t.Errorf("%+v %v", a, err)
		}
		if b, err := p.check([32]byte{1}, again); err != nil || !b.Passed(readiness.StageReady) {
			t.Errorf("a nonce asked again is answered with the past: %+v %v", b, err)
		}
		p.works()
	},
	"report of another boot": func(t *testing.T) {
		p := started(t, socketPort)
		other := starting(t, socketPort, handoffOf(0xa7, 4)).reads()
		other.tell(workload.Running{})
		nonce := [32]byte{7}
		here, err := p.check(nonce, p.challenge(nonce))
		there, err2 := p.check(nonce, other.challenge(nonce))
		if err != nil || err2 != nil || bytes.Equal(here.BootID, there.BootID) || bytes.Equal(here.BootKey, there.BootKey) {
			t.Errorf("copies are not told apart: %v %v", err, err2)
		}
		p.goesOn()
	},
	"report of another image": func(t *testing.T) {
		p := started(t, socketPort)
		other := starting(t, socketPort, handoffOf(0x55, 3)).reads()
		other.tell(workload.Running{})
		nonce := [32]byte{7}
		if _, err := p.check(nonce, other.challenge(nonce)); !errors.Is(err, report.ErrSignature) {
			t.Errorf("%v", err)
		}
		p.goesOn()
	},
	"relay alters": func(t *testing.T) {
		p := started(t, socketPort)
		nonce := [32]byte{7}
		raw := p.challenge(nonce)
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 0x20
			if _, err := p.check(nonce, bad); err == nil {
				t.Errorf("byte %d altered: verified", i)
			}
		}
		p.goesOn()
	},
	"relay truncates": func(t *testing.T) {
		p := started(t, socketPort)
		nonce := [32]byte{7}
		raw := p.challenge(nonce)
		for n := range raw {
			if _, err := p.check(nonce, raw[:n]); err == nil {
				t.Errorf("%d bytes: verified", n)
			}
		}
		p.goesOn()
	},
	"relay reorders": func(t *testing.T) {
		p := started(t, socketPort)
		a, b := p.challenge([32]byte{1}), p.challenge([32]byte{2})
		for nonce, raw := range map[[32]byte][]byte{{1}: b, {2}: a} {
			if _, err := p.check(nonce, raw); !errors.Is(err, report.ErrNonce) {
				t.Errorf("%v", err)
			}
		}
		p.goesOn()
	},
	"relay duplicates": func(t *testing.T) {
		p := started(t, socketPort)
		nonce := [32]byte{7}
		var host readiness.Host
		host.Connected()
		host.Ask(nonce)
		line := readiness.Report{COSE: p.challenge(nonce)}.String() + "\n"
		if told := host.Read([]byte(line + line + line)); len(told) != 1 {
			t.Errorf("told %d times", len(told))
		}
		p.goesOn()
	},
	"signals": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("PING 0\n")
		p.until("PONG 0")
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE} {
			p.signalled(s) // as the root's init does at shutdown
		}
		p.goesOn()
	},
	"end of the program": func(t *testing.T) {
		p := started(t, socketPort)
		p.hosts("HELLO 2 hostagent\nPING 0\n")
		p.until("PONG 0")
		p.tell(workload.Exited{Status: 3})
		p.tell(workload.Done{Status: 3})
		if got := p.until("BYE"); !slices.Contains(got, "EXIT 3") {
			t.Errorf("says %q", got)
		}
		_ = p.init.SetReadDeadline(time.Now().Add(testPatience))
		if n, err := p.init.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("guestinit is not told that the host knows: %d %v", n, err)
		}
		p.hosts("PING 1\n")
		if got := p.until("PONG 1"); !slices.Contains(got, "EXIT 3") {
			t.Errorf("asked again, says %q", got)
		}
	},
	"flood of notifications": func(t *testing.T) {
		p := started(t, socketPort)
		p.bounded(func() {
			c, err := net.Dial("unixgram", p.notify)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for i := range 2000 {
				p.write(c, []byte([]string{"STATUS=" + secretStatus, random(5000), "READY=0", "WATCHDOG_USEC=1"}[i%4]))
			}
		})
		p.goesOn()
	},
}

// pty makes a terminal: its master, and a raw slave for the guest.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	fd, err := unix.Open("/dev/pts/"+strconv.Itoa(int(n)), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	return master, os.NewFile(uintptr(fd), "pty")
}

// Whatever a host does to the port, the guest goes on, nothing secret gets out,
// and it costs little.
func TestSerialAttacks(t *testing.T) {
	t.Parallel()
	for name, text := range ignored {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := started(t, socketPort)
			p.hosts("\nPING 0\n")
			p.until("PONG 0")
			p.hosts(text + "PING 1\n")
			if got := p.until("PONG 1"); len(got) > 5 || slices.ContainsFunc(got, func(l string) bool { return l == "BYE" || strings.HasPrefix(l, "REPORT") }) {
				t.Errorf("is answered: %q", got)
			}
			if got := p.asked(20 * time.Millisecond); got != "" {
				t.Errorf("guestinit is told %q", got)
			}
			p.goesOn()
		})
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack(t)
		})
	}
}

// docs/attack-matrix.md has a row for each.
func TestAttacksAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/attack-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Serial and channel\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]+) \\| [^|]+ \\| [^|]+ \\| `TestSerialAttacks` \\|").FindAllStringSubmatch(section, -1) {
		documented[row[1]] = true
	}
	for _, name := range slices.Concat(keys(ignored), keys(attacks)) {
		if !documented[name] {
			t.Errorf("docs/attack-matrix.md lacks %q", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/attack-matrix.md has %q, which is not tried", name)
	}
}

func keys[V any](m map[string]V) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}
