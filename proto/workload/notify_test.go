package workload

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestNotification(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", MaxStatus)
	second, never := time.Second, time.Duration(0)
	for text, want := range map[string]Notification{
		"READY=1":                           {Ready: true},
		"READY=1\n":                         {Ready: true},
		"READY=1\nSTATUS=serves on 8080":    {Ready: true, Status: word("serves on 8080")},
		"STATUS=":                           {Status: word("")},
		"STATUS=a\x1b[2Jb":                  {Status: word("a?[2Jb")},
		"STATUS=" + long:                    {Status: word(long[:MaxStatus])},
		"WATCHDOG=1":                        {Alive: true},
		"WATCHDOG=trigger":                  {Trouble: true},
		"WATCHDOG_USEC=1000000\nWATCHDOG=1": {Alive: true, Watchdog: &second},
		"WATCHDOG_USEC=0":                   {Watchdog: &never},
		"STOPPING=1":                        {Stopping: true},
		"X_SYSTEMD_UNIT_ACTIVE=multi-user.target": {},
		"MAINPID=12\nFDSTORE=1\nERRNO=2":          {},
	} {
		got, err := ParseNotification([]byte(text))
		if err != nil || show(got) != show(want) {
			t.Errorf("%q: %s %v, wants %s", text, show(got), err, show(want))
		}
	}
	for _, text := range []string{
		"", "\n", "READY", "READY=0", "READY=1\n\n", "ready=1", "READY=1 ", "=1", "READY=1\x00", "STOPPING=2", "WATCHDOG=2", "STATUS=\xff",
		"WATCHDOG_USEC=", "WATCHDOG_USEC=-1", "WATCHDOG_USEC=01000000", "WATCHDOG_USEC=99999", "WATCHDOG_USEC=86400000001", "WATCHDOG_USEC=18446744073709551615",
		"READY=1\nWATCHDOG_USEC=1", strings.Repeat("A=1\n", MaxNotify/4) + "B=1",
	} {
		if got, err := ParseNotification([]byte(text)); !errors.Is(err, ErrNotify) || show(got) != show(Notification{}) {
			t.Errorf("%.60q: %s %v", text, show(got), err)
		}
	}
}

func word(s string) *string { return &s }

func show(n Notification) string {
	var b strings.Builder
	if n.Ready {
		b.WriteString("ready ")
	}
	if n.Stopping {
		b.WriteString("stopping ")
	}
	if n.Alive {
		b.WriteString("alive ")
	}
	if n.Trouble {
		b.WriteString("trouble ")
	}
	if n.Watchdog != nil {
		b.WriteString(n.Watchdog.String() + " ")
	}
	if n.Status != nil {
		b.WriteString("status " + *n.Status)
	}
	return b.String()
}

func FuzzNotification(f *testing.F) {
	for _, s := range []string{"READY=1", "STATUS=x\nWATCHDOG=1", "WATCHDOG_USEC=1000000", "STATUS=\x1b", "A=\nB="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNotification(b)
		if err != nil && show(n) != "" {
			t.Errorf("refused, and obeyed: %s", show(n))
		}
		if n.Status != nil && (len(*n.Status) > MaxStatus || !utf8.ValidString(*n.Status) || strings.ContainsAny(*n.Status, "\x1b\n\r\x00")) {
			t.Errorf("status %q", *n.Status)
		}
	})
}
