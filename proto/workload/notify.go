package workload

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// NotifyPath is the notification socket in a guest whose owner sealed that it is
// ready at READY=1: an AF_UNIX datagram socket, which the workload finds in
// NOTIFY_SOCKET (sd_notify(3)).
const NotifyPath = "/run/secexec/notify"

// Limits of a notification.
const (
	MaxNotify   = 4096 // bytes of a datagram
	MaxStatus   = 256  // bytes of STATUS; what is longer is cut
	minWatchdog = 100 * time.Millisecond
	maxWatchdog = 24 * time.Hour
)

// ErrNotify is wrapped by every error about a datagram.
var ErrNotify = errors.New("invalid notification")

// Notification is what one datagram says, of what guestagent minds.
type Notification struct {
	Ready    bool           // READY=1
	Stopping bool           // STOPPING=1
	Alive    bool           // WATCHDOG=1
	Trouble  bool           // WATCHDOG=trigger: as if it had missed its time
	Watchdog *time.Duration // WATCHDOG_USEC: from now on WATCHDOG=1 comes at least so often; 0: never again
	Status   *string        // STATUS: one line for the owner, printable
}

// ParseNotification parses a datagram: assignments, one a line. As with systemd
// a name that is not known is passed over; a known one with another value spoils
// the whole datagram, so that nothing of it is obeyed by half.
func ParseNotification(b []byte) (n Notification, err error) {
	if len(b) == 0 || len(b) > MaxNotify {
		return n, fmt.Errorf("%w: %d bytes, wants 1 to %d", ErrNotify, len(b), MaxNotify)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if !ok || !isName(name) {
			return Notification{}, fmt.Errorf("%w: %.40q is no assignment", ErrNotify, line)
		}
		switch {
		case name == "READY" && value == "1":
			n.Ready = true
		case name == "STOPPING" && value == "1":
			n.Stopping = true
		case name == "WATCHDOG" && value == "1":
			n.Alive = true
		case name == "WATCHDOG" && value == "trigger":
			n.Trouble = true
		case name == "STATUS" && utf8.ValidString(value):
			text := printable(value)
			n.Status = &text
		case name == "WATCHDOG_USEC":
			if n.Watchdog, ok = watchdog(value); !ok {
				return Notification{}, fmt.Errorf("%w: %.40q", ErrNotify, line)
			}
		case name == "READY", name == "STOPPING", name == "WATCHDOG", name == "STATUS":
			return Notification{}, fmt.Errorf("%w: %.40q", ErrNotify, line)
		}
	}
	return n, nil
}

// watchdog parses microseconds: 0, or minWatchdog to maxWatchdog.
func watchdog(value string) (*time.Duration, bool) {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != value || n > uint64(maxWatchdog/time.Microsecond) {
		return nil, false
	}
	d := time.Duration(n) * time.Microsecond
	return &d, d == 0 || d >= minWatchdog
}

// printable cuts a text to MaxStatus bytes, at a character, and writes '?' for
// what would move a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) <= MaxStatus {
		return s
	}
	end := MaxStatus
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
