package qemu

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, line string
		kind       string // greeting, event, reply, error; "" refused
	}{
		{"greeting", strings.TrimSpace(helloLine), "greeting"},
		{"event", `{"timestamp": {"seconds": 1795514134, "microseconds": 574187}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}`, "event"},
		{"event without data", `{"event": "STOP"}`, "event"},
		{"event with hostile time", `{"event": "STOP", "timestamp": {"seconds": -9223372036854775808, "microseconds": 9223372036854775807}}`, "event"},
		{"reply", `{"return": {"x": 1}, "id": 7}`, "reply"},
		{"reply null", `{"return": null, "id": 7}`, "reply"},
		{"error", `{"id": 7, "error": {"class": "GenericError", "desc": "no"}}`, "error"},
		{"unknown member", `{"id": 7, "return": {}, "new-in-11": true}`, "reply"},

		{"empty", ``, ""},
		{"empty object", `{}`, ""},
		{"array", `[]`, ""},
		{"number", `1`, ""},
		{"two values", `{"event": "A"}{"event": "B"}`, ""},
		{"reply without id", `{"return": {}}`, ""},
		{"text id", `{"return": {}, "id": "7"}`, ""},
		{"negative id", `{"return": {}, "id": -7}`, ""},
		{"fraction id", `{"return": {}, "id": 7.5}`, ""},
		{"reply and error", `{"return": {}, "error": {}, "id": 7}`, ""},
		{"greeting and event", `{"QMP": {}, "event": "A"}`, ""},
		{"event that is a number", `{"event": 1}`, ""},
		{"version over int", `{"QMP": {"version": {"qemu": {"major": 99999999999999999999}}}}`, ""},
		{"cut", `{"event": "A"`, ""},
		{"deep", strings.Repeat(`[`, 100000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			msg, err := decode([]byte(c.line))
			kind := ""
			switch {
			case msg.greeting != nil:
				kind = "greeting"
			case msg.event != nil:
				kind = "event"
			case msg.reply != nil && msg.reply.err != nil:
				kind = "error"
			case msg.reply != nil:
				kind = "reply"
			}
			if kind != c.kind || (c.kind == "") != errors.Is(err, ErrProtocol) {
				t.Errorf("decode = %q, %v; want %q", kind, err, c.kind)
			}
		})
	}
}

func TestDecodeBoundsData(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int
		kept bool
	}{{maxEventData, true}, {maxEventData + 1, false}} {
		line := `{"event": "X", "data": "` + strings.Repeat("d", c.size-2) + `"}`
		msg, err := decode([]byte(line))
		if err != nil || (msg.event.Data != nil) != c.kept {
			t.Errorf("event with %d bytes of data: %v, kept %v", c.size, err, msg.event.Data != nil)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(helloLine))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {"seconds": 1, "microseconds": 2}}`))
	f.Add([]byte(`{"return": {"x": 1}, "id": 7}`))
	f.Add([]byte(`{"id": 7, "error": {"class": "GenericError", "desc": "no"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		msg, err := decode(line)
		if !bytes.Equal(line, before) {
			t.Fatal("decode changed its input")
		}
		parts := 0
		if msg.greeting != nil {
			parts++
		}
		if e := msg.event; e != nil {
			parts++
			checkText(t, e.Name)
			if len(e.Data) > maxEventData {
				t.Errorf("%d bytes of event data", len(e.Data))
			}
		}
		if r := msg.reply; r != nil {
			parts++
			if r.err != nil {
				checkText(t, r.err.Class)
				checkText(t, r.err.Desc)
			}
		}
		if want := 1; err != nil && parts != 0 || err == nil && parts != want {
			t.Errorf("%d parts with error %v", parts, err)
		}
		// What is kept does not live in the reader's buffer.
		clear(line)
		if msg.reply != nil && len(msg.reply.ret) > 0 && msg.reply.ret[0] == 0 {
			t.Error("reply lies in the input's memory")
		}
	})
}

func checkText(t *testing.T, s string) {
	t.Helper()
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("text %q is not fit for a log", s)
	}
}
