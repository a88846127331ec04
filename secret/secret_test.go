package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestBytesNeverPrints(t *testing.T) {
	t.Parallel()
	canary := "canary-7f3a"
	b := Bytes(canary)
	type holder struct{ Key Bytes }
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("unlock", "key", b, "holder", holder{b})
	js, err := json.Marshal(holder{b})
	if err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{"slog": logged.String(), "json": string(js)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		outputs[verb] = fmt.Sprintf(verb, b)
		outputs["holder "+verb] = fmt.Sprintf(verb, holder{b})
		outputs["pointer "+verb] = fmt.Sprintf(verb, &holder{b})
	}
	for how, out := range outputs {
		if strings.Contains(out, canary) || strings.Contains(out, fmt.Sprintf("%x", canary)) || !strings.Contains(out, "redacted") {
			t.Errorf("%s prints %q", how, out)
		}
	}
}

func TestWipe(t *testing.T) {
	t.Parallel()
	b := Random(32)
	c := b.Clone()
	b.Wipe()
	if !bytes.Equal(b, make([]byte, 32)) {
		t.Error("Wipe left bytes")
	}
	if bytes.Equal(c, make([]byte, 32)) {
		t.Error("Clone shares memory with the original")
	}
}
