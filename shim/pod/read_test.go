package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/secexec/secexec/bundle"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The documents are containerd's own: what ctr and its CRI plugin wrote for such
// pods, with kubelet's mounts, environment and defaults.
func TestDocuments(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("testdata/containerd-*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, folder := range folders {
		if strings.HasSuffix(folder, ".golden") {
			continue
		}
		files, err := filepath.Glob(folder + "/*.json")
		if err != nil || len(files) == 0 {
			t.Fatalf("no documents in %s: %v", folder, err)
		}
		var got bytes.Buffer
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "%s\n\t%s\n", strings.TrimSuffix(filepath.Base(file), ".json"), describe(t, text))
		}
		golden := folder + ".golden"
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s differs (%v); look at it with -update and git diff:\n%s", golden, err, got.Bytes())
		}
	}
}

// describe is a request, or why there is none, in lines.
func describe(t *testing.T, config []byte) string {
	t.Helper()
	r, err := Read(config)
	if err != nil {
		if !errors.Is(err, ErrInvalid) && !errors.As(err, new(*Refusal)) {
			t.Errorf("error of another kind: %v", err)
		}
		return "refused " + err.Error()
	}
	kind := map[Kind]string{Alone: "alone", Sandbox: "sandbox", Container: "container"}[r.Kind]
	out := fmt.Sprintf("%s title=%q name=%q sandbox=%.8q netns=%q terminal=%v", kind, r.Title, r.Name, r.Sandbox, r.NetNS, r.Terminal)
	if r.Create != nil {
		text, err := protojson.Marshal(r.Create)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer // protojson's spaces vary on purpose
		if err := json.Compact(&compact, text); err != nil {
			t.Fatal(err)
		}
		out += "\n\t" + compact.String()
	}
	return out
}

// object is a JSON object that tests change.
type object = map[string]any

// change is a document with a change.
func change(t testing.TB, name string, edit func(o object)) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/containerd-1.6/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	edit(o)
	if text, err = json.Marshal(o); err != nil {
		t.Fatal(err)
	}
	return text
}

func within(o object, names ...string) object {
	for _, n := range names {
		o = o[n].(object)
	}
	return o
}

func addMount(kind, source, destination string) func(object) {
	return func(o object) {
		o["mounts"] = append(o["mounts"].([]any), object{"type": kind, "source": source, "destination": destination})
	}
}

// What no document of a real run here has, refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const volumes = "/var/lib/kubelet/pods/11111111-2222-3333-4444-555555555555/"
	linux := func(name string, value any) func(object) {
		return func(o object) { within(o, "linux")[name] = value }
	}
	resource := func(name string, value any) func(object) {
		return func(o object) { within(o, "linux", "resources")[name] = value }
	}
	block := func(path string) any { return object{"path": path, "type": "b", "major": 8, "minor": 0} }
	for name, c := range map[string]struct {
		edit func(object)
		want Code
	}{
		"subPath":                       {addMount("bind", volumes+"volume-subpaths/conf/main/0", "/x"), Files},
		"downward API":                  {addMount("bind", volumes+"volumes/kubernetes.io~downward-api/info", "/x"), Config},
		"hosts file elsewhere":          {addMount("bind", volumes+"etc-hosts", "/x"), Config},
		"something else of kubelet":     {addMount("bind", volumes+"plugins/x", "/x"), HostPath},
		"own hosts file":                {addMount("bind", "/srv/hosts", "/etc/hosts"), HostPath},
		"own resolv.conf":               {addMount("bind", "/srv/sandboxes/resolv.conf", "/etc/resolv.conf"), HostPath},
		"another sandbox's resolv.conf": {addMount("bind", "/var/lib/containerd/sandboxes/x/resolv.conf", "/etc/resolv.conf"), HostPath},
		"own token":                     {addMount("bind", volumes+"volumes/kubernetes.io~secret/token", serviceAccount), Config},
		"token with a path":             {addMount("bind", volumes+"volumes/kubernetes.io~projected/kube-api-access-x/../../x", serviceAccount), Config},
		"tmpfs":                         {addMount("tmpfs", "tmpfs", "/srv"), Mount},
		"tmpfs over /proc":              {addMount("tmpfs", "tmpfs", "/proc"), Mount},
		"overlay":                       {addMount("overlay", "overlay", "/"), Mount},
		"no type":                       {addMount("", "/srv", "/srv"), Mount},
		"hook":                          {func(o object) { o["hooks"] = object{"prestart": []any{object{"path": "/x"}}} }, Hook},
		"huge pages":                    {resource("hugepageLimits", []any{object{"pageSize": "1MB", "limit": 1 << 20}}), HugePages},
		"block I/O":                     {resource("blockIO", object{"weight": 10}), Class},
		"network class":                 {resource("network", object{"classID": 1}), Class},
		"RDMA":                          {resource("rdma", object{"mlx5_1": object{}}), Class},
		"unified":                       {resource("unified", object{"io.weight": "1"}), Class},
		"RDT":                           {linux("intelRdt", object{"closID": "x"}), Class},
		"user namespace":                {linux("namespaces", []any{object{"type": "user"}, object{"type": "network"}, object{"type": "pid"}, object{"type": "ipc"}}), UserNamespace},
		"no namespaces":                 {linux("namespaces", nil), HostNetwork},
		"character device":              {linux("devices", []any{object{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}}), Device},
		"pipe":                          {linux("devices", []any{object{"path": "/dev/x", "type": "p"}}), Device},
		"disk elsewhere":                {linux("devices", []any{block("/data")}), Serial},
		"disk in a folder":              {linux("devices", []any{block("/dev/disk/x")}), Serial},
		"disk with a long name":         {linux("devices", []any{block("/dev/" + strings.Repeat("x", 21))}), Serial},
		"disk without a name":           {linux("devices", []any{block("/dev/")}), Serial},
		"two disks of a name":           {linux("devices", []any{block("/dev/x"), block("/dev/x")}), Serial},
		"no command":                    {func(o object) { within(o, "process")["args"] = nil }, Image},
		"another PATH":                  {func(o object) { within(o, "process")["env"] = []any{"PATH=/bin"} }, Environment},
		"nearly a service's variable":   {func(o object) { within(o, "process")["env"] = []any{"X_PORT_80_SCTPX=1"} }, Environment},
		"variable without a name":       {func(o object) { within(o, "process")["env"] = []any{"=1"} }, Environment},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := Read(change(t, "pod", c.edit))
			var got *Refusal
			if !errors.As(err, &got) || got.Code != c.want {
				t.Errorf("got %+v, %v, wants %s", r, err, c.want)
			}
		})
	}
}

// What is not asked for by anybody is passed over.
func TestPassedOver(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(object){
		"other kubelet root": addMount("bind", "/srv/kubelet/pods/u/etc-hosts", "/etc/hosts"),
		"empty hooks":        func(o object) { o["hooks"] = object{"prestart": []any{}} },
		"nothing of each":    func(o object) { within(o, "linux")["intelRdt"], within(o, "linux", "resources")["blockIO"] = nil, nil },
		"huge pages of no size": func(o object) {
			within(o, "linux", "resources")["hugepageLimits"] = []any{object{"pageSize": "1MB", "limit": 0}}
		},
		"memory QoS": func(o object) {
			within(o, "linux", "resources")["unified"] = object{"memory.high": "1", "memory.min": "1"}
		},
		"containerd's sysctls": func(o object) {
			within(o, "linux")["sysctl"] = object{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 1"}
		},
		"a service": func(o object) {
			within(o, "process")["env"] = []any{"A_B_SERVICE_PORT_HTTP_2=1", "A_PORT_53_UDP_ADDR=::1"}
		},
		"a field of the future": func(o object) { o["future"] = object{"x": 1} },
		"profiles": func(o object) {
			within(o, "process")["apparmorProfile"], within(o, "process")["selinuxLabel"] = "x", "y"
		},
		"no memory, no CPU limit": func(o object) { within(o, "linux")["resources"] = object{} },
	} {
		if _, err := Read(change(t, "pod", edit)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	cpu := func(shares, quota, period any) object {
		return object{"cpu": object{"shares": shares, "quota": quota, "period": period}}
	}
	for name, c := range map[string]struct {
		resources              object
		memory, cpus, pct, wgt uint32
		invalid                bool
	}{
		"nothing":            {resources: object{}},
		"memory":             {resources: object{"memory": object{"limit": 1<<30 + 1<<20 - 1}}, memory: 1024},
		"no limit":           {resources: object{"memory": object{"limit": -1}}},
		"a byte":             {resources: object{"memory": object{"limit": 1}}, invalid: true},
		"too much":           {resources: object{"memory": object{"limit": int64(1) << 62}}, invalid: true},
		"half a CPU":         {resources: cpu(512, 50000, 100000), cpus: 1, pct: 50, wgt: 20},
		"a CPU and a little": {resources: cpu(1024, 100001, 100000), cpus: 2, pct: 101, wgt: 39},
		"usual period":       {resources: cpu(2, 400000, nil), cpus: 4, pct: 400, wgt: 1},
		"no quota":           {resources: cpu(262144, -1, 100000), wgt: 10000},
		"shares beyond":      {resources: cpu(1<<40, 0, 0), wgt: 10000},
		"one share":          {resources: cpu(1, 0, 0), wgt: 1},
		"period beyond":      {resources: cpu(2, 1, 1000001), invalid: true},
		"quota beyond":       {resources: cpu(2, int64(1)<<41, 100000), invalid: true},
		"quota far beyond":   {resources: cpu(2, 1<<40, 1), invalid: true},
		"half a number":      {resources: cpu(2, 1.5, 1), invalid: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := Read(change(t, "pod", func(o object) { within(o, "linux")["resources"] = c.resources }))
			if c.invalid {
				if !errors.Is(err, ErrInvalid) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			g, u := r.Create, r.Create.Resources
			if g.MemoryMib != c.memory || g.Cpus != c.cpus || u.GetCpuPercent() != c.pct || u.GetCpuWeight() != c.wgt {
				t.Errorf("got %v", g)
			}
		})
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	nested := func(n int) []byte {
		return []byte(`{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`)
	}
	annotate := func(name, value string) []byte {
		return change(t, "pod", func(o object) { within(o, "annotations")[name] = value })
	}
	for name, text := range map[string][]byte{
		"nothing":       nil,
		"no JSON":       []byte("\x7fELF"),
		"an array":      []byte("[]"),
		"a string":      []byte(`"x"`),
		"cut off":       []byte(`{"process":`),
		"two values":    []byte("{}{}"),
		"field twice":   []byte(`{"mounts":[],"mounts":[]}`),
		"in two cases":  []byte(`{"mounts":[],"Mounts":[]}`),
		"twice deeper":  []byte(`{"linux":{"devices":[],"devices":[]}}`),
		"too deep":      nested(maxDepth),
		"too large":     append([]byte("{}"), bytes.Repeat([]byte(" "), MaxConfig)...),
		"other type":    []byte(`{"mounts":{}}`),
		"negative user": []byte(`{"process":{"user":{"uid":-1}}}`),
		"kind":          annotate(kindAnnotation, "volume"),
		"no sandbox":    annotate(sandboxAnnotation, ""),
		"no kind":       annotate(kindAnnotation, ""),
		"device numbers": change(t, "block", func(o object) {
			within(o, "linux")["devices"] = []any{object{"path": "/dev/x", "type": "b", "major": 1 << 12, "minor": 0}}
		}),
	} {
		if r, err := Read(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := parse(nested(maxDepth - 1)); err != nil {
		t.Errorf("deep enough: %v", err)
	}
	if _, err := parse(append([]byte("{}"), bytes.Repeat([]byte(" "), MaxConfig-2)...)); err != nil {
		t.Errorf("large enough: %v", err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	if err := Follow("main", &Request{Name: "main"}); err != nil {
		t.Error(err)
	}
	var r *Refusal
	if err := Follow("init", &Request{Name: "main"}); !errors.As(err, &r) || r.Code != Second || !strings.HasPrefix(err.Error(), `P350: container "main" after "init": `) {
		t.Error(err)
	}
}

// The image's user is the one that its config names.
func TestImageUser(t *testing.T) {
	t.Parallel()
	if want := fmt.Sprintf("%d:%d", imageUser, imageUser); bundle.ImageUser != want {
		t.Errorf("bundle.ImageUser is %s, wants %s", bundle.ImageUser, want)
	}
}

func TestTableIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (P\d{3}) \| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1)
	var list strings.Builder
	for _, code := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&list, "| %s | %s | %s |\n", code, table[code].Meaning, table[code].Remedy)
	}
	var documented strings.Builder
	for _, row := range rows {
		documented.WriteString(row[0] + "\n")
	}
	if documented.String() != list.String() {
		t.Errorf("docs/errors.md wants the rows\n%s", list.String())
	}
}

// Any bytes are refused, or asked of hostagent within its forms.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"pod", "pod-sandbox", "block", "ctr-plain", "hostpath"} {
		f.Add(change(f, name, func(o object) {
			delete(within(o, "linux"), "seccomp")
		}))
	}
	f.Add([]byte(`{"linux":{"resources":{"cpu":{"quota":1,"period":1}}}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		r, err := Read(config)
		if err != nil {
			if r := (*Refusal)(nil); errors.As(err, &r) {
				if table[r.Code].Meaning == "" || len(err.Error()) > 4<<10 {
					t.Fatalf("refusal without words, or too many: %q", err)
				}
			} else if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if r.Kind == Sandbox {
			return
		}
		seen := make(map[string]bool)
		for _, d := range r.Create.Disks {
			if seen[d.Serial] || d.Serial == "" || len(d.Serial) > 20 || strings.ContainsAny(d.Serial, "/,\x00\n") || !strings.HasPrefix(d.Path, "/dev/block/") {
				t.Fatalf("disk %v", d)
			}
			seen[d.Serial] = true
		}
		if u := r.Create.Resources; u.GetCpuWeight() > 10000 {
			t.Fatalf("resources %v", u)
		}
	})
}
