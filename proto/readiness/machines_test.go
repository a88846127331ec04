package readiness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/proto/workload"
)

// words are effects as a table has them.
func words[T any](effects []T) string {
	var out []string
	for _, e := range effects {
		switch e := any(e).(type) {
		case Message:
			out = append(out, e.String())
		default:
			out = append(out, strings.TrimPrefix(fmt.Sprintf("%T", e), "readiness."))
		}
	}
	return strings.Join(out, ", ")
}

// The table of docs/readiness.md: each event in each state.
func TestGuestTransitions(t *testing.T) {
	t.Parallel()
	say := func(text string) func(*Guest) []Effect {
		return func(g *Guest) []Effect {
			n, err := workload.ParseNotification([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			return g.Notified(n, 7000)
		}
	}
	host := func(line string) func(*Guest) []Effect {
		return func(g *Guest) []Effect { return g.Read([]byte(line+"\n"), 7000) }
	}
	events := map[string]func(*Guest) []Effect{
		"hand over": func(g *Guest) []Effect { return g.HandedOver(7000) },
		"READY=1":   say("READY=1"), "WATCHDOG=trigger": say("WATCHDOG=trigger"), "STATUS": say("STATUS=x"),
		"exited":   func(g *Guest) []Effect { g.Exited(); return nil },
		"done":     func(g *Guest) []Effect { return g.Done(3) },
		"failed":   func(g *Guest) []Effect { return g.Failed("G111", 7000) },
		"POWEROFF": host("POWEROFF"), "CHALLENGE": host("CHALLENGE " + strings.Repeat("00", NonceSize)), "garbage": host("EXEC /bin/sh"),
	}
	const starting, running, ready, ended = Starting, Running, Ready, Ended
	for _, step := range []struct {
		from  GuestState
		event string
		to    GuestState
		says  string
	}{
		{starting, "hand over", running, "STAGE running 7000"},
		{starting, "READY=1", starting, ""},
		{starting, "STATUS", starting, ""},
		{starting, "WATCHDOG=trigger", starting, "UNHEALTHY"},
		{starting, "exited", starting, ""},
		{starting, "done", ended, "EXIT 3, BYE"},
		{starting, "failed", ended, "FAIL G111 7000"},
		{starting, "POWEROFF", starting, "BYE"},
		{starting, "CHALLENGE", starting, "Sign"},
		{starting, "garbage", starting, ""},
		{running, "hand over", running, ""},
		{running, "READY=1", ready, "STAGE ready 7000"},
		{running, "STATUS", running, ""},
		{running, "WATCHDOG=trigger", running, "UNHEALTHY"},
		{running, "exited", running, ""},
		{running, "done", ended, "EXIT 3, BYE"},
		{running, "failed", ended, "FAIL G111 7000"},
		{running, "POWEROFF", running, "Stop, BYE"},
		{running, "CHALLENGE", running, "Sign"},
		{running, "garbage", running, ""},
		{ready, "hand over", ready, ""},
		{ready, "READY=1", ready, ""},
		{ready, "STATUS", ready, ""},
		{ready, "WATCHDOG=trigger", ready, "UNHEALTHY"},
		{ready, "exited", ready, ""},
		{ready, "done", ended, "EXIT 3, BYE"},
		{ready, "failed", ended, "FAIL G111 7000"},
		{ready, "POWEROFF", ready, "Stop, BYE"},
		{ready, "CHALLENGE", ready, "Sign"},
		{ready, "garbage", ready, ""},
		{ended, "hand over", ended, ""},
		{ended, "READY=1", ended, ""},
		{ended, "STATUS", ended, ""},
		{ended, "WATCHDOG=trigger", ended, ""},
		{ended, "exited", ended, ""},
		{ended, "done", ended, ""},
		{ended, "failed", ended, ""},
		{ended, "POWEROFF", ended, "BYE"},
		{ended, "CHALLENGE", ended, "Sign"},
		{ended, "garbage", ended, ""},
	} {
		g := NewGuest([IDSize]byte{}, true, false, nil)
		g.Read([]byte("HELLO 2 hostagent\n"), 0)
		switch step.from {
		case Ended:
			g.Done(0)
		case Ready, Running:
			g.HandedOver(1000)
			if step.from == Ready {
				g.Notified(workload.Notification{Ready: true}, 2000)
			}
		}
		if g.State() != step.from {
			t.Fatalf("is %s, wants %s", g.State(), step.from)
		}
		if got := words(events[step.event](g)); got != step.says || g.State() != step.to {
			t.Errorf("%s, %s: %s says %q, wants %s %q", step.from, step.event, g.State(), got, step.to, step.says)
		}
	}
}

// A guest that is not to wait for READY=1 is ready at the hand-over.
func TestReadyAtHandOver(t *testing.T) {
	t.Parallel()
	g := NewGuest([IDSize]byte{}, false, false, []Stage{{StageKernel, 5}})
	g.Read([]byte("HELLO 2 hostagent\nPOWEROFF\n"), 0) // too early for anybody to hear it
	if got := words(g.HandedOver(9)); got != "STAGE running 9, STAGE ready 9, Stop" || g.State() != Ready {
		t.Errorf("%s %s", g.State(), got)
	}
	g.Notified(workload.Notification{Ready: true}, 10)
	if got := words(g.Read([]byte("PING a\n"), 11)); got != "HELLO 3 guestagent "+strings.Repeat("00", IDSize)+", STAGE kernel 5, STAGE running 9, STAGE ready 9, PONG a" {
		t.Error(got)
	}
}

// POWEROFF that comes twice, as by a reconnect, asks the workload once.
func TestPowerOffTwice(t *testing.T) {
	t.Parallel()
	g := NewGuest([IDSize]byte{}, false, false, nil)
	g.HandedOver(0)
	if got := words(g.Read([]byte("POWEROFF\nPOWEROFF\n"), 100)); got != "Stop, BYE, BYE" {
		t.Error(got)
	}
	if got := words(g.Read([]byte("POWEROFF\n"), 100+stopAgain)); got != "Stop, BYE" {
		t.Errorf("long after: %s", got)
	}
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	second := time.Second
	g := NewGuest([IDSize]byte{}, false, false, nil)
	g.Read([]byte("HELLO 2 hostagent\n"), 0)
	g.HandedOver(0)
	if at, ok := g.Next(5000); ok {
		t.Fatalf("wakes at %d without a watchdog", at)
	}
	g.Notified(workload.Notification{Watchdog: &second}, 5000)
	if at, ok := g.Next(5000); !ok || at != 6000 {
		t.Errorf("wakes at %d %v", at, ok)
	}
	g.Notified(workload.Notification{Alive: true}, 5900)
	if got := words(g.Tick(6800)); got != "" {
		t.Errorf("in time: %s", got)
	}
	if got := words(g.Tick(6900)); got != "UNHEALTHY" {
		t.Errorf("late: %s", got)
	}
	if at, ok := g.Next(6900); ok {
		t.Errorf("wakes at %d after the watchdog barked", at)
	}
	if _, healthy := g.Health(); healthy {
		t.Error("passes for healthy")
	}
	if got := words(g.Notified(workload.Notification{Alive: true}, 9000)); got != "HEALTHY" {
		t.Errorf("alive again: %s", got)
	}
	g.Notified(workload.Notification{Stopping: true}, 9000)
	if got := words(g.Tick(99000)); got != "" {
		t.Errorf("while it stops: %s", got)
	}

	g = NewGuest([IDSize]byte{}, false, true, nil)
	g.HandedOver(0)
	g.Notified(workload.Notification{Watchdog: &second}, 0)
	if got := words(g.Tick(1000)) + words(g.Tick(99000)); got != "Restart" {
		t.Errorf("supervised: %s", got)
	}
}

// A host that floods the guest waits; nothing of what it said is lost, and what
// the guest holds is one read.
func TestGuestRate(t *testing.T) {
	t.Parallel()
	g := NewGuest([IDSize]byte{}, false, false, nil)
	g.HandedOver(0)
	pongs, now := 0, uint64(0)
	count := func(effects []Effect) {
		for _, e := range effects {
			if _, ok := e.(Pong); ok {
				pongs++
			}
		}
	}
	flood := []byte(strings.Repeat("PING 0\n", 500))
	count(g.Read(flood, now))
	if pongs > perSecond || g.Wants(now) {
		t.Fatalf("%d answers at once", pongs)
	}
	if got := g.Read(flood, now); len(got) > 0 {
		t.Error("answers beyond its rate")
	}
	for ; pongs < 500 && now < 60_000; count(g.Tick(now)) {
		at, ok := g.Next(now)
		if !ok || at <= now || at > now+1000 {
			t.Fatalf("wakes at %d", at)
		}
		now = at
	}
	if now < 7000 || now > 9000 {
		t.Errorf("500 lines taken in %d ms", now)
	}
	reads := 0
	for now += 1000; g.Wants(now); reads++ {
		g.Read([]byte("x"), now)
	}
	if reads > perSecond {
		t.Errorf("%d reads in a second", reads)
	}
}

// What each version of one end says to each of the other: the lower is talked.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ host, hears string }{
		{"", "HELLO 3 guestagent, STAGE running 0, STAGE ready 0, PONG 1"}, // version 1 has no HELLO of the host's
		{"HELLO 1 hostagent\n", "HELLO 3 guestagent, STAGE running 0, STAGE ready 0, PONG 1"},
		{"HELLO 2 hostagent\n", "HELLO 3 guestagent, STAGE running 0, STAGE ready 0, UNHEALTHY, PONG 1"},
		{"HELLO 3 hostagent\n", "HELLO 3 guestagent, STAGE secrets 0, STAGE running 0, STAGE ready 0, UNHEALTHY, PONG 1"},
		{"HELLO 4 hostagent\nASK 3\n", "HELLO 3 guestagent, STAGE secrets 0, STAGE running 0, STAGE ready 0, UNHEALTHY, PONG 1"},
		{"HELLO 0 hostagent\n", "HELLO 3 guestagent, STAGE running 0, STAGE ready 0, PONG 1"}, // no version: as if it had said nothing
	} {
		g := NewGuest([IDSize]byte{}, false, false, []Stage{{StageSecrets, 0}})
		g.HandedOver(0)
		g.Notified(workload.Notification{Trouble: true}, 0)
		got := strings.ReplaceAll(words(g.Read([]byte(row.host+"PING 1\n"), 1)), " "+strings.Repeat("00", IDSize), "")
		if got != row.hears {
			t.Errorf("%q: %s, wants %s", row.host, got, row.hears)
		}
		g.HungUp()
		if got := words(g.Read([]byte("PING 1\n"), 2)); strings.Contains(got, "UNHEALTHY") {
			t.Errorf("the next host gets the last one's version: %s", got)
		}
	}
	for _, row := range []struct {
		hello         string
		talked, guest uint16
	}{{"", 1, 0}, {"HELLO 1", 1, 1}, {"HELLO 2", 2, 2}, {"HELLO 3", 3, 3}, {"HELLO 9999", 3, 9999}, {"HELLO 0", 1, 0}} {
		var h Host
		h.Connected()
		told := h.Read([]byte(row.hello + " guestagent " + id + "\nASK 3\nSTAGE ready 1\n"))
		if talked, guest := h.Version(); talked != row.talked || guest != row.guest || !slices.Contains(told, Message(Stage{StageReady, 1})) {
			t.Errorf("%q: talks %d, guest %d, told %v", row.hello, talked, guest, told)
		}
		h.Lost()
		if talked, _ := h.Version(); talked != 0 {
			t.Errorf("talks %d without a connection", talked)
		}
	}
}

func TestHostQuestions(t *testing.T) {
	t.Parallel()
	var h Host
	nonce := [NonceSize]byte{1, 2, 3}
	ask := Challenge{nonce}.String()
	if got := words(h.Ask(nonce)); got != "" {
		t.Errorf("asks nobody: %s", got)
	}
	if got := words(h.Connected()); got != "HELLO 3 hostagent, PING 01, "+ask {
		t.Error(got)
	}
	answer := func(nonce [NonceSize]byte) []byte {
		return []byte(Report{append([]byte("signed "), nonce[:]...)}.String() + "\n")
	}
	if told := h.Read(answer([NonceSize]byte{9})); len(told) > 0 {
		t.Error("hands on the answer to another question")
	}
	if told := h.Read(answer(nonce)); len(told) != 1 {
		t.Errorf("answer: %v", told)
	}
	if told := h.Read(answer(nonce)); len(told) > 0 {
		t.Error("hands on an answer twice")
	}
	if got := words(h.Ask(nonce)); got != ask {
		t.Error(got)
	}
	h.Forget()
	if told := h.Read(answer(nonce)); len(told) > 0 {
		t.Error("hands on an answer that nobody waits for")
	}
	if got := words(h.PowerOff()); got != "POWEROFF" {
		t.Error(got)
	}
	h.Lost()
	if got := words(h.PowerOff()); got != "" {
		t.Errorf("speaks without a connection: %s", got)
	}
	if got := words(h.Connected()); got != "HELLO 3 hostagent, PING 01, POWEROFF" {
		t.Error(got)
	}
	h.Read([]byte("garbage\n" + strings.Repeat("x", 2*MaxLine) + "\nBYE\n"))
	if n := h.Bad(); n != 2 || h.Bad() != 0 {
		t.Errorf("%d bad lines", n)
	}
}

func TestHostPause(t *testing.T) {
	t.Parallel()
	var h Host
	now := time.Unix(1000, 0)
	h.Pause(now)
	h.Read(make([]byte, HostRate-1))
	if wait := h.Pause(now.Add(time.Millisecond)); wait != 0 {
		t.Errorf("waits %s below its rate", wait)
	}
	h.Read([]byte{1})
	if wait := h.Pause(now.Add(400 * time.Millisecond)); wait != 600*time.Millisecond {
		t.Errorf("waits %s", wait)
	}
	h.Read(make([]byte, 2*HostRate))
	if wait := h.Pause(now.Add(-time.Hour)); wait > time.Second {
		t.Errorf("waits %s after the clock was set back", wait)
	}
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	var o Outbox
	o.Put(Pong{"1"})
	o.Wrote(3)
	for range 10 * MaxOut / len("STAGE ready 1\n") {
		o.Put(Stage{StageReady, 1})
	}
	held := 0
	for _, l := range o.lines {
		held += len(l)
	}
	if held > MaxOut || held != o.size || o.Dropped == 0 {
		t.Errorf("holds %d bytes, counts %d, dropped %d", held, o.size, o.Dropped)
	}
	o.HungUp()
	o.Put(Bye{})
	var written strings.Builder
	for b := o.Pending(); b != nil; b = o.Pending() {
		written.Write(b[:1])
		o.Wrote(1)
	}
	if got := written.String(); got != "G 1\nBYE\n" || o.size != 0 {
		t.Errorf("%q, %d bytes left", got, o.size)
	}
}
