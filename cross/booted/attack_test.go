package booted

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/attack-matrix.md")

// attack is one thing that a hostile host does to a guest, and what comes of
// it. docs/attack-matrix.md has a row for each.
type attack struct {
	name string // what the host does
	// want is "runs", or the codes of which one is to be the guest's or the
	// host's reason of not running.
	want  string
	quick bool // in make test, too
	// silence is how long a guest may wait before it gives up, by its own clock:
	// for what is not there. Refusals take 5 s at most.
	silence time.Duration
	// hopeless guests never become ready, and the host soon gives up waiting.
	hopeless bool

	memory, cpus uint32
	bundle       func(t *testing.T) string            // nil: the victim's
	forge        func(t *testing.T, v *victim)        // changes the bundle's copy
	sed          func(t *testing.T, v *victim) string // changes QEMU's arguments, which come one a line
	during       func(t *testing.T, v *victim)        // once QEMU runs
	after        func(t *testing.T, v *victim)        // of a guest that runs
}

// victim is a guest under attack.
type victim struct {
	*node
	name     string
	bundle   string // a copy of its own
	evidence string // folder: port's bytes, sockets
	qmp      *qemu.Monitor
	late     func() // what the host keeps for later
}

// Canaries: what must not leave a guest. The first lies in the root, the second
// in disks that hosts forge, whose init prints it.
const (
	canary       = "canary-3f9c1f0f6e5e4b0b-of-the-owner"
	forgedCanary = "canary-8d7e1c55a0c24f6a-of-the-host"
)

var sealedVictim = sync.OnceValues(func() (string, error) {
	root := filepath.Join(lab.dir, "victim-root")
	if err := makeRoot(root, map[string]string{"secret": strings.Repeat(canary+"\n", 1000)}); err != nil {
		return "", err
	}
	return build("victim", root, "host-a", 256)
})

// victimBundle is the bundle that is attacked: testinit and the canary.
func victimBundle(t *testing.T) string {
	t.Helper()
	small(t)
	b, err := sealedVictim()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attacks runs a table of them, each with a guest of its own.
func attacks(t *testing.T, table []attack) {
	all := t
	bundle := victimBundle(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "qemu")
	hostile, err := filepath.Abs("testdata/hostile-qemu")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(hostile, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(link+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "--qemu", link)
	var impatient *node
	for i, a := range table {
		t.Run(a.name, func(t *testing.T) {
			if !a.quick && os.Getenv("SECEXEC_LONG") == "" {
				t.Skip("set SECEXEC_LONG=1 (make test-long)")
			}
			from := bundle
			if a.bundle != nil {
				from = a.bundle(t)
			}
			node := n
			if a.hopeless {
				if impatient == nil {
					impatient = newNode(all, "--qemu", link, "--ready-timeout", "45s")
				}
				node = impatient
			}
			v := &victim{node: node.with(t), name: fmt.Sprintf("victim-%d", i), bundle: copyBundle(t, from), evidence: link + ".d"}
			v.attack(t, &a, from)
		})
	}
}

func (v *victim) file(kind string) string { return filepath.Join(v.evidence, v.name+"."+kind) }

func (v *victim) attack(t *testing.T, a *attack, original string) {
	if a.forge != nil {
		a.forge(t, v)
		cover(t, v.bundle, original, "root.img")
	}
	// All that the guest says on its port is kept, and the host has a monitor
	// of its own.
	script := "/^socket,id=readiness,/s|$|,logfile=" + v.file("port") + "|\n"
	if a.sed != nil {
		script += a.sed(t, v) + "\n"
	}
	if a.want[0] == 'G' {
		// The guest's clock counts its instructions, 2 ns each, and no wait takes
		// longer than it must: so it does not matter how busy this machine is.
		script += "$a -icount\n$a shift=1,sleep=off\n"
	}
	script += "$a -qmp\n$a unix:" + v.file("qmp") + ",server=on,wait=off\n"
	if err := os.WriteFile(v.file("sed"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := v.c.Create(t.Context(), &hostagentv1.CreateRequest{Bundle: v.bundle, Name: v.name, MemoryMib: a.memory, Cpus: a.cpus})
	if err == nil {
		_, err = v.c.Start(t.Context(), v.name, "")
	}
	if err != nil {
		if !strings.Contains(a.want, code(err)) {
			t.Errorf("launch: %v, wants %s", err, a.want)
		}
		return
	}
	if a.during != nil {
		a.during(t, v)
	}
	g := v.settled(v.name)
	if g.State == "ready" && a.want != noisy { // of a root with noise in it, the init may end as it likes
		v.says(v.name, "testinit: waits")
	}
	console := v.console(v.name)
	got := "runs"
	if g.State != "ready" {
		got = g.Failure.GetCode()
	}
	t.Logf("the guest: %s", got)
	if !strings.Contains(" "+a.want+" ", " "+got+" ") {
		t.Errorf("guest is %v, wants %s\n%s\nport: %s", g, a.want, console, v.port())
	}
	if got != "runs" {
		v.refused(t, a, got, console)
	} else if a.after != nil {
		a.after(t, v)
	}
	if _, err := v.c.Kill(t.Context(), v.name); g.State == "ready" && err != nil {
		t.Error(err)
	}
	v.kept(t, original)
}

// port is all that the guest said on its readiness port.
func (v *victim) port() []byte {
	b, _ := os.ReadFile(v.file("port"))
	return b
}

var spoken = regexp.MustCompile(`(?m)^(STAGE|FAIL) (\S+) (\d+)`)

// refused checks a guest that gave up: the code's sentence on the console,
// nothing of a root, and in time by its own clock.
func (v *victim) refused(t *testing.T, a *attack, got, console string) {
	if got[0] != 'G' {
		return // the host ended it, and the owner's own root may have run
	}
	if strings.Contains(console, "testinit") {
		t.Errorf("something ran:\n%s", console)
	}
	said := regexp.MustCompile(`(?m)^secexec: guest stopped: (.*?)\s*$`).FindAllStringSubmatch(console, -1)
	if len(said) != 1 || said[0][1] != got+": "+readiness.Failures[got] {
		t.Errorf("the console does not say why:\n%s", console)
	}
	var last, failed int
	for _, m := range spoken.FindAllStringSubmatch(string(v.port()), -1) {
		millis, _ := strconv.Atoi(m[3])
		if m[1] == "FAIL" {
			failed = millis
		} else {
			last = millis
		}
	}
	limit := 5*time.Second + a.silence
	took := time.Duration(failed-last) * time.Millisecond
	if failed == 0 && a.during == nil || took > limit {
		t.Errorf("the guest took %v to give up, wants at most %v:\n%s", took, limit, v.port())
	}
}

// kept looks for canaries and keys in all that left the guest.
func (v *victim) kept(t *testing.T, original string) {
	secrets := map[string][]byte{"the owner's canary": []byte(canary), "the forged disk's canary": []byte(forgedCanary)}
	for _, name := range []string{owner.VolumeKeyFile, owner.IdentityFile, owner.DiskKeyFile} {
		key, err := os.ReadFile(filepath.Join(original+"-secrets", name))
		if err != nil || len(key) < 32 {
			t.Fatalf("read %s: %d bytes, %v", name, len(key), err)
		}
		secrets[name], secrets[name+" in hex"] = key[:16], []byte(hex.EncodeToString(key[:16]))
	}
	places := []string{v.file("port"), v.path("state/guests/" + v.name + "/root.img"), v.path("state/guests/" + v.name + "/console.log"), v.path("state/guests/" + v.name + "/qemu.log")}
	for _, place := range places {
		data, err := os.ReadFile(place)
		if err != nil && strings.HasSuffix(place, "console.log") {
			t.Error(err)
		}
		for name, secret := range secrets {
			if bytes.Contains(data, secret) && !(name == "the forged disk's canary" && strings.HasSuffix(place, "root.img")) {
				t.Errorf("%s is in %s", name, filepath.Base(place))
			}
		}
	}
}

// command runs a command of the hostile host's own monitor.
func (v *victim) command(t *testing.T, name string, arguments any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if v.qmp == nil {
		m, err := qemu.Dial(ctx, v.file("qmp"))
		if err != nil {
			t.Fatal(err)
		}
		v.qmp = m
		t.Cleanup(func() { m.Close() })
	}
	if err := v.qmp.Execute(ctx, name, arguments, nil); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// passes waits until the guest says on its port that it passed a stage.
func (v *victim) passes(t *testing.T, stage string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !bytes.Contains(v.port(), []byte("STAGE "+stage+" ")) {
		if time.Now().After(deadline) {
			t.Fatalf("the guest never passes %s: %s\n%s", stage, v.port(), v.console(v.name))
		}
		time.Sleep(time.Millisecond)
	}
}

// docs/attack-matrix.md says what the tables say.
func TestMatrix(t *testing.T) {
	inMatrix(t, "Boot", bootAttacks)
	inMatrix(t, "Disk", diskAttacks)
	inMatrix(t, "Network", networkAttacks)
}

// inMatrix compares a table with its section of docs/attack-matrix.md.
func inMatrix(t *testing.T, section string, table []attack) {
	t.Helper()
	const page = "../../docs/attack-matrix.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| what the host does | what becomes of the guest |\n| --- | --- |\n")
	names := make(map[string]bool)
	for _, a := range table {
		if names[a.name] {
			t.Errorf("two cases are %q", a.name)
		}
		names[a.name] = true
		var ends []string
		for want := range strings.FieldsSeq(a.want) {
			switch {
			case want == "runs":
				ends = append(ends, "runs, unimpressed")
			case readiness.Failures[want] != "":
				ends = append(ends, want+": "+readiness.Failures[want])
			default:
				ends = append(ends, want+": not started, or ended by the host")
			}
		}
		fmt.Fprintf(&b, "| %s | %s |\n", a.name, strings.Join(ends, "; or "))
	}
	before, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %s", page, section)
	}
	prose, rest, _ := strings.Cut(rest, "| what the host does |")
	end := strings.Index(rest, "\n\n")
	if end < 0 {
		end = len(rest) - 1
	}
	want := before + "\n## " + section + "\n" + prose + strings.TrimSuffix(b.String(), "\n") + rest[max(end, 0):]
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Errorf("%s, section %s, is not this table: go test ./cross/booted -run Matrix -update", page, section)
	}
}
