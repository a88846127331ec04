package platform

import (
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/qemu"
)

func TestPanicWords(t *testing.T) {
	t.Parallel()
	// As QEMU 7.2 sends it.
	const form = `{"action": "shutdown", "info": {"core": 0, "psw-addr": ADDR, "reason": "disabled-wait", "psw-mask": 562956395872256, "type": "s390"}}`
	for _, c := range []struct {
		name, data, words string // no words: not known
	}{
		{"GUEST_PANICKED", strings.Replace(form, "ADDR", "17928", 1), "refused the image"},
		{"GUEST_PANICKED", strings.Replace(form, "ADDR", "17927", 1), "no unpack facility"},
		{"GUEST_PANICKED", strings.Replace(form, "ADDR", "17681", 1), "unfit"},
		{"GUEST_PANICKED", strings.Replace(form, "ADDR", "0", 1), "kernel"},
		{"GUEST_PANICKED", strings.Replace(form, "ADDR", "18446744073709551615", 1), "0xffffffffffffffff"},
		{"GUEST_PANICKED", strings.Replace(form, "disabled-wait", `pgmint-loop\u001b\n`, 1), ""}, // ADDR is no number
		{"GUEST_PANICKED", `{"info": {"type": "s390", "reason": "pgmint-loop\u001b[2J"}}`, "(pgmint-loop [2J)"},
		{"GUEST_PANICKED", `{"info": {"type": "hyper-v"}}`, ""},
		{"GUEST_PANICKED", `{}`, ""},
		{"GUEST_PANICKED", ``, ""},
		{"GUEST_PANICKED", `[]`, ""},
		{"SHUTDOWN", strings.Replace(form, "ADDR", "17928", 1), ""},
	} {
		got, ok := PanicWords(qemu.Event{Name: c.name, Data: []byte(c.data)})
		if ok != (c.words != "") || !strings.Contains(got, c.words) {
			t.Errorf("PanicWords(%s %s) = %q, %v; want words on %q", c.name, c.data, got, ok, c.words)
		}
	}
}

func FuzzPanicWords(f *testing.F) {
	f.Add([]byte(`{"info": {"type": "s390", "reason": "disabled-wait", "psw-addr": 17928}}`))
	f.Add([]byte(`{"info": {"type": "s390", "reason": "x\u001b\u202e"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		words, ok := PanicWords(qemu.Event{Name: "GUEST_PANICKED", Data: data})
		if ok == (words == "") || words != oneLine(words) {
			t.Errorf("words %q, %v", words, ok)
		}
	})
}
