package owner

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
	"github.com/secexec/secexec/sealed"
)

func TestCapabilities(t *testing.T) {
	t.Parallel()
	const standard = 0x800405fb // podman run … grep CapBnd /proc/self/status
	for _, c := range []struct {
		add, drop    []string
		all, ambient uint64
	}{
		{nil, nil, standard, 0},
		{[]string{"net_admin", "CAP_SYS_TIME"}, nil, standard | 1<<12 | 1<<25, 1<<12 | 1<<25},
		{nil, []string{"CHOWN"}, standard &^ 1, 0},
		{[]string{"net_bind_service"}, []string{"all"}, 1 << 10, 1 << 10},
		{nil, []string{"ALL"}, 0, 0},
		{[]string{"all"}, nil, 1<<41 - 1, 1<<41 - 1},
		{[]string{"all"}, []string{"sys_admin"}, 1<<41 - 1 - 1<<21, 1<<41 - 1 - 1<<21},
	} {
		all, ambient, err := capabilities(c.add, c.drop)
		if err != nil || all != c.all || ambient != c.ambient {
			t.Errorf("add %v drop %v: %#x %#x %v", c.add, c.drop, all, ambient, err)
		}
	}
	if _, _, err := capabilities([]string{"FLY"}, nil); err == nil || !strings.Contains(err.Error(), `"FLY"`) {
		t.Errorf("%v", err)
	}
}

// The kernel's own header has the same numbers.
func TestCapabilityNumbers(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/usr/include/linux/capability.h")
	if err != nil {
		t.Skip("no kernel headers on this machine: ", err)
	}
	rows := regexp.MustCompile(`(?m)^#define CAP_([A-Z_]+)\s+([0-9]+)$`).FindAllStringSubmatch(string(text), -1)
	if len(rows) < 38 {
		t.Fatalf("%d capabilities in the header", len(rows))
	}
	for _, row := range rows {
		set, err := capabilitySet([]string{row[1]})
		if err != nil || set != 1<<atoi(row[2]) {
			t.Errorf("%s is %#x, %v; wants bit %s", row[1], set, err, row[2])
		}
	}
}

func atoi(s string) (n uint) {
	for _, d := range s {
		n = 10*n + uint(d-'0')
	}
	return n
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint8{
		"SIGTERM": 15, "term": 15, "15": 15, "SIGQUIT": 3, "WINCH": 28, "SIGUSR1": 10, "SIGSYS": 31, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX": 64, "SIGRTMAX-14": 50, "64": 64,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "SIG", "0", "65", "-1", "SIGNOTHING", "RTMIN+31", "RTMIN-1", "RTMAX+1", "256"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func imageOf(t *testing.T, c oci.Config) string {
	dir := filepath.Join(t.TempDir(), "image")
	root := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	ocitest.WriteLayout(t, dir, ocitest.Image{Architecture: "s390x", Config: c, Layers: [][]byte{ocitest.TarOf(t, root)}})
	return "oci:" + dir
}

func TestResolveWorkload(t *testing.T) {
	t.Parallel()
	image := oci.Config{
		Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"serve"}, Env: []string{"A=1", "B=2"}, User: "app", WorkingDir: "/srv/app/", StopSignal: "SIGQUIT",
		Volumes: map[string]struct{}{"/var/lib/db": {}, "/srv/data/": {}}, Healthcheck: &oci.Healthcheck{Test: []string{"CMD", "true"}},
	}
	var warnings []string
	p := &Plan{
		Name: "web", Root: FileSystem{Source: imageOf(t, image)}, Workload: &Workload{}, Volumes: []Volume{{Name: "d", Mount: "/srv/data"}},
		Warn: func(s string) { warnings = append(warnings, s) },
	}
	got, err := p.resolveWorkload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &sealed.Workload{
		Args: []string{"/entry", "-x", "serve"}, Env: []string{defaultPath, "A=1", "B=2", "HOSTNAME=web"}, Dir: "/srv/app", Capabilities: 0x800405fb,
		StopSignal: 3, StopSeconds: 10, Hostname: "web", Network: &sealed.Network{Source: sealed.DHCP},
	}
	if !reflect.DeepEqual(got, want) || p.Workload.User != "app" {
		t.Errorf("got %+v as %s,\nwants %+v", got, p.Workload.User, want)
	}
	if all := strings.Join(warnings, "\n"); len(warnings) != 2 || !strings.Contains(all, "health check is ignored") || !strings.Contains(all, "of its own: /var/lib/db: here") {
		t.Errorf("warnings %q", warnings)
	}

	for _, c := range []struct {
		w    Workload
		want []string
	}{
		{Workload{Command: []string{"other"}}, []string{"/entry", "-x", "other"}},
		{Workload{Entrypoint: []string{"/mine"}}, []string{"/mine"}}, // the image's command goes with its entry point
		{Workload{Entrypoint: []string{"/mine"}, Command: []string{"now"}}, []string{"/mine", "now"}},
	} {
		if got := c.w.args(&image); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v runs %q, wants %q", c.w, got, c.want)
		}
	}

	w, err := (&Workload{
		Env: []string{"PATH=/bin", "B=3", "C="}, Dir: "/", StopSignal: 9, StopSeconds: 5, Restart: sealed.RestartAlways, MaxRestarts: 3, Hostname: "h", NoNetwork: true,
	}).sealed("web", &image)
	if err != nil || strings.Join(w.Env, " ") != "PATH=/bin A=1 B=3 C= HOSTNAME=h" || w.Dir != "/" || w.StopSignal != 9 || w.StopSeconds != 5 ||
		w.WindowSecs != defaultWindow || w.Network != nil {
		t.Errorf("%+v %v", w, err)
	}
	for what, w := range map[string]*Workload{
		"variable": {Env: []string{"NOVALUE"}}, "capability": {CapAdd: []string{"x"}}, "working directory": {Dir: "a"}, "host name": {Hostname: "-"},
	} {
		if _, err := w.sealed("web", &image); !errors.Is(err, ErrWorkload) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := (&Workload{}).sealed("web", &oci.Config{}); !errors.Is(err, ErrWorkload) || !strings.Contains(err.Error(), "give a command") {
		t.Errorf("nothing to run: %v", err)
	}
}

// An image of a whole system is handed over to, as podman tells them.
func TestImageWithInit(t *testing.T) {
	t.Parallel()
	source := imageOf(t, oci.Config{Cmd: []string{"/sbin/init"}, StopSignal: "SIGRTMIN+3"})
	p := &Plan{Name: "sys", Root: FileSystem{Source: source}, Workload: &Workload{}}
	if w, err := p.resolveWorkload(t.Context()); err != nil || w != nil || p.Init != "/sbin/init" || p.StopSignal != DefaultStopSignal || p.Workload != nil {
		t.Errorf("%+v %v, plan %+v", w, err, p)
	}
	p = &Plan{Name: "sys", Root: FileSystem{Source: source}, Workload: &Workload{Env: []string{"A=1"}}}
	if _, err := p.resolveWorkload(t.Context()); !errors.Is(err, ErrWorkload) || !strings.Contains(err.Error(), "--init") {
		t.Errorf("settings for an init: %v", err)
	}
}
