package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/settings"
)

// The installed file says what the defaults are and sets the group, no more.
func TestSettingsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hostagent.yaml")
	if err := os.WriteFile(path, settingsFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	want := settings.Default()
	want.Group = group
	if got, err := settings.Load(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	made, err := os.ReadFile("../../systemd/secexec-hostagent.sysusers.conf")
	if err != nil || !strings.Contains(string(made), "\ng "+group+" ") {
		t.Errorf("sysusers makes no group %s: %v", group, err)
	}
}

// The page has every option.
func TestSettingsPage(t *testing.T) {
	t.Parallel()
	page := string(settingsPage(time.Unix(0, 0).UTC()))
	for _, f := range reflect.VisibleFields(reflect.TypeFor[settings.Settings]()) {
		if name := f.Tag.Get("yaml"); !strings.Contains(page, "\n.B "+roff(name)+"\n") || f.Tag.Get("doc") == "" {
			t.Errorf("no %s, or nothing about it", name)
		}
	}
}

func TestRoff(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "a-b": `a\-b`, `\f`: `\ef`, ".x": `\&.x`, "'x": `\&'x`} {
		if got := roff(in); got != want {
			t.Errorf("roff(%q) = %q, want %q", in, got, want)
		}
	}
}
