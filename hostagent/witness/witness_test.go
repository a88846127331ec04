package witness

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/store"
)

// What is logged and told of a row of events, which are a guest's record each.
func TestSee(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	g := func(state string, stages ...string) store.Guest {
		rec := store.Guest{Name: "web", UUID: "u1", State: state, Started: start}
		for i, s := range stages {
			rec.Stages = append(rec.Stages, store.Stage{Name: s, Millis: int64(i + 1)})
		}
		return rec
	}
	failed := g("failed")
	failed.Failure = &store.Failure{Code: "G108", Message: "the root\nis another"}
	again := g("starting")
	again.Started, again.Restarts = start.Add(time.Minute), []time.Time{start.Add(time.Minute)}
	waiting := g("waiting")
	waiting.Restarts, waiting.Failure = []time.Time{start.Add(time.Second)}, &store.Failure{Code: "H218"}
	waiting2 := g("starting")
	waiting2.Restarts, waiting2.Started = waiting.Restarts, start.Add(time.Minute)
	other := g("created")
	other.UUID = "u2"
	for name, c := range map[string]struct {
		events []store.Guest // State deleted: deleted
		log    string
		stages string
	}{
		"a life": {
			[]store.Guest{g("created"), g("starting"), g("starting", "starting"), g("running", "starting", "unpacked"), g("ready", "starting", "unpacked", "ready"), g("stopping", "starting", "unpacked", "ready"), g("stopped", "starting", "unpacked", "ready"), {Name: "web", UUID: "u1", State: "deleted"}},
			"guest-state created< guest-state starting<created guest-state running<starting guest-state ready<running guest-state stopping<ready guest-state stopped<stopping guest-deleted <",
			"starting:1ms unpacked:2ms ready:3ms",
		},
		"taken over":     {[]store.Guest{g("running", "starting", "unpacked"), g("ready", "starting", "unpacked", "ready")}, "guest-state ready<running", "ready:3ms"},
		"failed":         {[]store.Guest{g("starting"), failed}, "guest-state starting< guest-failed failed<starting G108", ""},
		"restarted":      {[]store.Guest{failed, again, again}, "guest-failed failed< G108 guest-restarted < guest-state starting<failed", ""},
		"waits":          {[]store.Guest{g("ready"), waiting, waiting, waiting2}, "guest-state ready< guest-restarted < guest-failed waiting<ready H218 guest-state starting<waiting", ""},
		"rebooted":       {[]store.Guest{g("ready", "starting"), func() store.Guest { r := g("starting", "starting"); r.Started = start.Add(1); return r }()}, "guest-state ready< guest-state starting<ready", "starting:1ms"},
		"another's name": {[]store.Guest{g("created"), other}, "guest-state created< guest-state created<", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log []string
			w := New(guest.NewHub(), slog.New(lines{&log, nil}))
			var stages []string
			w.Stage = func(name string, since time.Duration) { stages = append(stages, fmt.Sprintf("%s:%s", name, since)) }
			for _, e := range c.events {
				w.see(&e, e.State == "deleted")
			}
			if got := strings.Join(log, " "); got != c.log {
				t.Errorf("log  %s\nwant %s", got, c.log)
			}
			if got := strings.Join(stages, " "); got != c.stages {
				t.Errorf("stages %s, want %s", got, c.stages)
			}
		})
	}
}

// lines keeps event, state, the state before and code of each line.
type lines struct {
	out  *[]string
	with []slog.Attr
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithGroup(string) slog.Handler            { return l }
func (l lines) WithAttrs(a []slog.Attr) slog.Handler     { return lines{l.out, append(l.with, a...)} }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	attrs := make(map[string]string)
	for _, a := range l.with {
		attrs[a.Key] = a.Value.String()
	}
	r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value.String(); return true })
	if attrs["guest"] != "web" || attrs["uuid"] == "" {
		return fmt.Errorf("guest %q", attrs)
	}
	*l.out = append(*l.out, strings.TrimRight(fmt.Sprintf("%s %s<%s %s", attrs["event"], attrs["state"], attrs["was"], attrs["code"]), " "))
	return nil
}

// A witness that was cut off lists, and misses no state that guests are left in.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := New(guest.NewHub(), slog.New(slog.NewTextHandler(&b, nil)))
	w.see(&store.Guest{Name: "a", UUID: "1", State: "ready"}, false)
	w.see(&store.Guest{Name: "b", UUID: "2", State: "ready"}, false)
	b.Reset()
	w.catchUp([]store.Guest{{Name: "b", UUID: "2", State: "stopped"}, {Name: "c", UUID: "3", State: "created"}})
	for _, want := range []string{"event=guest-deleted guest=a", "guest=b uuid=2 event=guest-state state=stopped was=ready", "guest=c uuid=3 event=guest-state state=created\n"} {
		if !strings.Contains(strings.ReplaceAll(b.String(), "guest=a uuid=1 event=guest-deleted", "event=guest-deleted guest=a"), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if want := map[string]bool{"b": true, "c": true}; len(w.seen) != 2 || !reflect.DeepEqual(want, map[string]bool{"b": w.seen["b"].uuid != "", "c": w.seen["c"].uuid != ""}) {
		t.Errorf("seen %v", w.seen)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	w := New(guest.NewHub(), slog.New(slog.DiscardHandler))
	if err := w.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	w.turn <- struct{}{} // as when a line of the log is held up for good
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Ping(short); err == nil {
		t.Error("a witness that hangs answers")
	}
}
