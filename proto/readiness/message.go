// Package readiness is the protocol on the readiness port: a virtio-serial
// port between a sealed guest and its host.
//
// It is lines of ASCII, so that a reader that starts in the middle, such as a
// restarted hostagent, is in step again at the next line feed. The guest says
// what stage it has reached; these lines are hints, since whoever sits between
// can write them too. What proves anything is the signed report, the answer to
// a challenge (package report). docs/readiness.md has the whole protocol.
package readiness

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// PortName is the virtio-serial port's name.
const PortName = "org.secexec.readiness.0"

// Version is the highest version of the protocol that this package speaks. Both
// ends say theirs in HELLO and talk the lower one; docs/readiness.md has the
// rule. Version 2 added the host's HELLO, EXIT, HEALTHY and UNHEALTHY, version 3
// the stage secrets.
const Version = 3

// maxVersion bounds the number in HELLO.
const maxVersion = 9999

// MaxLine bounds a line, its line feed included.
const MaxLine = 4096

// NonceSize is the size of a challenge's nonce in bytes.
const NonceSize = 32

// IDSize is the size of a boot identity in bytes.
const IDSize = 16

// Stages of a guest, in order.
const (
	StageKernel   = "kernel"   // guestinit runs
	StageUnlocked = "unlocked" // the root's dm-crypt device is there
	StageMounted  = "mounted"  // the root is mounted
	StageHandover = "handover" // guestagent runs, guestinit is about to become the root's init
	StageSecrets  = "secrets"  // its one program waits for the owner to deliver its secrets
	StageRunning  = "running"  // the root's init, or its one program, runs
	StageReady    = "ready"    // so it does and, if the owner sealed that, said READY=1
)

// Stages lists the stages in order.
var Stages = []string{StageKernel, StageUnlocked, StageMounted, StageHandover, StageSecrets, StageRunning, StageReady}

// ErrMessage is wrapped by every error about a line.
var ErrMessage = errors.New("invalid readiness message")

// Message is one line. String returns it without the line feed.
type Message interface{ String() string }

// Messages from the guest.
type (
	// Hello opens what one process of the guest has to say.
	Hello struct {
		Version uint16       // the highest that it speaks
		Speaker string       // "guestinit" or "guestagent"
		BootID  [IDSize]byte // the kernel's boot_id
	}
	// Stage says that a stage was reached, at so many milliseconds since the
	// kernel started.
	Stage struct {
		Name   string
		Millis uint64
	}
	// Fail says that guestinit gives up; the code is in docs/errors.md.
	Fail struct {
		Code   string
		Millis uint64
	}
	// Pong answers a Ping.
	Pong struct{ Token string }
	// Report answers a Challenge: a COSE_Sign1 message.
	Report struct{ COSE []byte }
	// Bye says that the guest was asked to power off and will.
	Bye struct{}
	// Exit says how the guest's one program ended, which is not run again: a
	// status of 0 to 255, where 128+n is signal n.
	Exit struct{ Status uint8 }
	// Unhealthy says that the workload missed its watchdog's time.
	Unhealthy struct{}
	// Healthy says that it keeps it again.
	Healthy struct{}
)

// Messages from the host.
type (
	// HostHello opens what the host has to say, on each connection.
	HostHello struct{ Version uint16 } // the highest that it speaks
	// Ping asks for Hello, all stages so far, and Pong.
	Ping struct{ Token string } // 1 to 32 hex digits
	// Challenge asks for a Report over a nonce.
	Challenge struct{ Nonce [NonceSize]byte }
	// PowerOff asks the guest to power off in order.
	PowerOff struct{}
)

func (m Hello) String() string     { return fmt.Sprintf("HELLO %d %s %x", m.Version, m.Speaker, m.BootID) }
func (m Stage) String() string     { return "STAGE " + m.Name + " " + strconv.FormatUint(m.Millis, 10) }
func (m Fail) String() string      { return "FAIL " + m.Code + " " + strconv.FormatUint(m.Millis, 10) }
func (m Pong) String() string      { return "PONG " + m.Token }
func (m Report) String() string    { return "REPORT " + base64.StdEncoding.EncodeToString(m.COSE) }
func (m Bye) String() string       { return "BYE" }
func (m Exit) String() string      { return "EXIT " + strconv.Itoa(int(m.Status)) }
func (m Unhealthy) String() string { return "UNHEALTHY" }
func (m Healthy) String() string   { return "HEALTHY" }
func (m HostHello) String() string { return fmt.Sprintf("HELLO %d hostagent", m.Version) }
func (m Ping) String() string      { return "PING " + m.Token }
func (m Challenge) String() string { return "CHALLENGE " + hex.EncodeToString(m.Nonce[:]) }
func (m PowerOff) String() string  { return "POWEROFF" }

// ParseGuest parses a line that a guest wrote, without its line feed.
func ParseGuest(line string) (Message, error) {
	verb, rest, _ := strings.Cut(line, " ")
	f := strings.Split(rest, " ")
	var m Message
	switch verb {
	case "HELLO":
		if len(f) == 3 && parseVersion(f[0]) > 0 && (f[1] == "guestinit" || f[1] == "guestagent") {
			h := Hello{Version: parseVersion(f[0]), Speaker: f[1]}
			if n, err := hex.Decode(h.BootID[:], []byte(cut(f[2], 2*IDSize))); err == nil && n == IDSize {
				m = h
			}
		}
	case "STAGE":
		if len(f) == 2 && known(f[0]) {
			if ms, err := strconv.ParseUint(f[1], 10, 48); err == nil {
				m = Stage{f[0], ms}
			}
		}
	case "FAIL":
		if len(f) == 2 && isCode(f[0]) {
			if ms, err := strconv.ParseUint(f[1], 10, 48); err == nil {
				m = Fail{f[0], ms}
			}
		}
	case "PONG":
		if isToken(rest) {
			m = Pong{rest}
		}
	case "REPORT":
		if b, err := base64.StdEncoding.Strict().DecodeString(rest); err == nil && len(b) > 0 {
			m = Report{b}
		}
	case "BYE":
		m = Bye{}
	case "EXIT":
		if status, err := strconv.ParseUint(rest, 10, 8); err == nil {
			m = Exit{uint8(status)}
		}
	case "UNHEALTHY":
		m = Unhealthy{}
	case "HEALTHY":
		m = Healthy{}
	}
	return canonical(m, line)
}

// ParseHost parses a line that the host wrote, without its line feed.
func ParseHost(line string) (Message, error) {
	verb, rest, _ := strings.Cut(line, " ")
	var m Message
	switch verb {
	case "HELLO":
		number, _, _ := strings.Cut(rest, " ")
		if v := parseVersion(number); v > 0 {
			m = HostHello{v}
		}
	case "PING":
		if isToken(rest) {
			m = Ping{rest}
		}
	case "CHALLENGE":
		var c Challenge
		if n, err := hex.Decode(c.Nonce[:], []byte(cut(rest, 2*NonceSize))); err == nil && n == NonceSize {
			m = c
		}
	case "POWEROFF":
		m = PowerOff{}
	}
	return canonical(m, line)
}

// canonical accepts a message only from the one line that it would be written as.
func canonical(m Message, line string) (Message, error) {
	if len(line) >= MaxLine || m == nil || m.String() != line {
		return nil, fmt.Errorf("%w: %.60q", ErrMessage, line)
	}
	return m, nil
}

// cut bounds what is decoded into a fixed array; a longer text fails canonical.
func cut(s string, n int) string { return s[:min(len(s), n)] }

// parseVersion returns 0 for what is no version.
func parseVersion(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > maxVersion {
		return 0
	}
	return uint16(n)
}

// since is the version of the protocol that brought a message.
func since(m Message) uint16 {
	switch m := m.(type) {
	case HostHello, Exit, Healthy, Unhealthy:
		return 2
	case Stage:
		if m.Name == StageSecrets {
			return 3
		}
	}
	return 1
}

func known(stage string) bool {
	for _, s := range Stages {
		if s == stage {
			return true
		}
	}
	return false
}

func isCode(s string) bool {
	return len(s) == 4 && s[0] == 'G' && isDigit(s[1]) && isDigit(s[2]) && isDigit(s[3])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 32
}
