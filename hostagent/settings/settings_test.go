package settings

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text, words string
		change            func(*Settings)
	}{
		{name: "nothing", text: "", change: func(*Settings) {}},
		{name: "comments", text: "# nothing\n", change: func(*Settings) {}},
		{name: "some", text: "state: /srv/guests\nready_timeout: 5m\n", change: func(s *Settings) { s.State, s.ReadyTimeout = "/srv/guests", 5*time.Minute }},
		{name: "lists and maps", text: "tenant_roots: [/a, /b]\ntenant_quotas: {alice: {guests: 3}, \"1000\": {cpus: -1}}\ntls_clients: {ops: root}\n", change: func(s *Settings) {
			s.TenantRoots = []string{"/a", "/b"}
			s.TenantQuotas = map[string]Quota{"alice": {Guests: 3}, "1000": {CPUs: -1}}
			s.TLSClients = map[string]string{"ops": "root"}
		}},
		{name: "no roots", text: "tenant_roots: []\n", change: func(s *Settings) { s.TenantRoots = []string{} }},
		{name: "relative root", text: "bundle_roots: [/a, b]\n", words: `bundle_roots: "b" is not an absolute path`},
		{name: "relative key", text: "tls_key: key.pem\n", words: "tls_key"},
		{name: "listen without a port", text: "listen: node\n", words: "listen: \"node\" is not HOST:PORT"},
		{name: "unknown in a quota", text: "tenant_quotas: {alice: {guest: 3}}\n", words: "guest"},
		{name: "unknown", text: "stat: /srv\n", words: "stat"},
		{name: "twice", text: "state: /a\nstate: /b\n", words: "state"},
		{name: "relative", text: "runtime: run\n", words: `runtime: "run" is not an absolute path`},
		{name: "empty", text: "state: ''\n", words: `state: "" is not`},
		{name: "no QEMU", text: "qemu: ''\n", words: "qemu: no program"},
		{name: "launcher", text: "launcher: direct\n", change: func(s *Settings) { s.Launcher = "direct" }},
		{name: "unknown launcher", text: "launcher: fork\n", words: `launcher: "fork"`},
		{name: "no time", text: "ready_timeout: 0s\n", words: "ready_timeout"},
		{name: "no number", text: "ready_timeout: soon\n", words: "soon"},
		{name: "no ratio", text: "memory_ratio: -1\n", words: "memory_ratio"},
		{name: "a ratio that is none", text: "memory_ratio: .nan\n", words: "memory_ratio"},
		{name: "ratio", text: "memory_ratio: 1.5\n", change: func(s *Settings) { s.MemoryRatio = 1.5 }},
		{name: "not counted", text: "memory_ratio: 0\n", change: func(s *Settings) { s.MemoryRatio = 0 }},
		{name: "reserve", text: "memory_reserve_mib: -1\n", words: "memory_reserve_mib"},
		{name: "a list", text: "- a\n", words: "invalid settings"},
		{name: "large", text: strings.Repeat("#\n", MaxSize), words: "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := Default()
			err := parse([]byte(c.text), &got)
			if c.words != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.words) {
					t.Errorf("error %v, want %q", err, c.words)
				}
				return
			}
			want := Default()
			c.change(&want)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// The installed file says what the defaults are: with its comments taken away it
// gives them.
func TestTemplate(t *testing.T) {
	t.Parallel()
	var plain bytes.Buffer
	for line := range bytes.Lines(Template()) {
		if rest, ok := bytes.CutPrefix(line, []byte("#")); ok && !bytes.HasPrefix(rest, []byte(" ")) {
			plain.Write(rest)
		}
	}
	var s Settings
	if err := parse(plain.Bytes(), &s); err != nil || !reflect.DeepEqual(s, Default()) {
		t.Errorf("%+v, %v from\n%s", s, err, plain.String())
	}
	path := filepath.Join(t.TempDir(), "hostagent.yaml")
	if err := os.WriteFile(path, Template(), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(path); err != nil || !reflect.DeepEqual(s, Default()) {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("state: /srv\n"))
	f.Add(Template())
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Default()
		if err := parse(text, &s); err == nil {
			if err := s.Check(); err != nil {
				t.Errorf("taken, but: %v", err)
			}
		}
	})
}
