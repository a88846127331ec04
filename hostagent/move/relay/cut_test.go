package relay_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/move/relay"
)

// over is a move whose messages pass a wire.
func over(src, dst *node, w *wire) *relay.Move {
	m := newMove(src, dst)
	m.Source, m.Target = end{"source", src.mover(), w}, end{"target", dst.mover(), w}
	return m
}

// pair is two nodes, the guest g on the first.
func pair(t *testing.T, c content) (src, dst *node) {
	t.Helper()
	src, dst = newNode(t, 0), newNode(t, 1)
	src.put(c)
	return src, dst
}

// messages lists the messages of a move that nothing disturbs.
func messages(t *testing.T) []string {
	t.Helper()
	src, dst := pair(t, files(1))
	w := &wire{}
	sum, err := over(src, dst, w).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	moved(t, src, dst, files(1))
	if sum.Copied >= sum.Total || sum.Copied < 1<<20 {
		t.Errorf("%d of %d bytes copied", sum.Copied, sum.Total)
	}
	return w.calls
}

// The connection to either node is cut at each message, before it and after it,
// and either node is killed there. Whatever has happened, one copy is the guest,
// and the same command brings it to its end; or it is undone; or the guest is
// started where it still may, changed, and moved after all.
func TestCutAtEachMessage(t *testing.T) {
	t.Parallel()
	calls := messages(t)
	if last := calls[len(calls)-3:]; strings.Join(last, " ") != "source.Give target.Take source.Bury" || len(calls) < 18 {
		t.Fatalf("messages %v", calls)
	}
	no := func() bool { return false }
	seen := make(map[string]bool)
	for i, name := range calls {
		if seen[name] && os.Getenv("SECEXEC_LONG") == "" {
			continue // one of each kind; all of them in make test-long
		}
		seen[name] = true
		for _, how := range []string{"request lost", "answer lost", "source killed before", "source killed after", "target killed before", "target killed after"} {
			t.Run(fmt.Sprintf("%02d %s %s", i+1, name, how), func(t *testing.T) {
				t.Parallel()
				src, dst := pair(t, files(1))
				w := &wire{at: i + 1}
				victim := src
				if strings.HasPrefix(how, "target") {
					victim = dst
				}
				kill := func() bool { victim.restart(); return false }
				switch {
				case how == "request lost":
					w.before = no
				case how == "answer lost":
					w.after = no
				case strings.HasSuffix(how, "before"):
					w.before = kill
				default:
					w.after = kill
				}
				if _, err := over(src, dst, w).Run(t.Context()); err == nil {
					t.Fatal("the move did not notice")
				}
				safe(t, src, dst, files(1))
				goOn(t, src, dst, i)
			})
		}
	}
}

// goOn brings a move that was cut off to one of its ends.
func goOn(t *testing.T, src, dst *node, n int) {
	t.Helper()
	want := files(1)
	if src.startable() {
		switch n % 3 {
		case 1:
			if err := newMove(src, dst).Abort(t.Context(), false); err != nil && fault.As(err).Code != fault.WrongState {
				t.Fatalf("abort: %v", err)
			}
			safe(t, src, dst, want)
			if rec := src.record(); rec.Move != nil || move.PhaseOf(rec) != "" {
				t.Errorf("after the abort: source %+v", rec.Move)
			}
			if rec := dst.record(); rec != nil {
				t.Errorf("after the abort: target %+v", rec)
			}
		case 2:
			if err := src.startGuest(); err != nil {
				t.Fatalf("start where it is: %v", err)
			}
			safe(t, src, dst, want)
			want = files(2) // what the guest wrote
			for src.record().State == "starting" {
				time.Sleep(time.Millisecond)
			}
			src.put(want)
		}
	}
	if _, err := newMove(src, dst).Run(t.Context()); err != nil {
		t.Fatalf("again: %v", err)
	}
	moved(t, src, dst, want)
	if rec := dst.record(); rec.Owner != 1000 || rec.Order != 7 || rec.Networks[0].MAC != "52:54:00:01:02:03" {
		t.Errorf("arrived as %+v", rec)
	}
}

// Either node is killed at each record that it writes, just before and just
// after.
func TestKilledAtEachWrite(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	if _, err := newMove(src, dst).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for victim, writes := range map[string]int{"source": src.records.count(), "target": dst.records.count()} {
		if writes < 3 {
			t.Fatalf("the %s writes %d records", victim, writes)
		}
		for at := 1; at <= writes; at++ {
			for _, before := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s write %d before %t", victim, at, before), func(t *testing.T) {
					t.Parallel()
					src, dst := pair(t, files(1))
					n := src
					if victim == "target" {
						n = dst
					}
					n.stop()
					n.at, n.before = at, before
					n.start()
					_, err := newMove(src, dst).Run(t.Context())
					n.restart()
					if err == nil {
						t.Fatal("the move did not notice")
					}
					if rec := src.record(); rec == nil { // the source's last write was done
						moved(t, src, dst, files(1))
					} else {
						safe(t, src, dst, files(1))
					}
					if _, err := newMove(src, dst).Run(t.Context()); err != nil {
						t.Fatalf("again: %v", err)
					}
					moved(t, src, dst, files(1))
				})
			}
		}
	}
}

// Every message is delivered twice, and after the end all of them once more.
func TestReplayed(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	if _, err := over(src, dst, &wire{twofold: true}).Run(t.Context()); err == nil {
		moved(t, src, dst, files(1))
	} else if fault.As(err).Code != fault.NoGuest { // Bury of what is buried
		t.Fatal(err)
	}
	if _, err := newMove(src, dst).Run(t.Context()); err != nil {
		t.Errorf("after the end: %v", err)
	}
	moved(t, src, dst, files(1))
}
