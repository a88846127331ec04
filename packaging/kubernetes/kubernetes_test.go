// Package kubernetes tests the manifests that lie here, and those that secexec
// prints, against Kubernetes' own schema.
package kubernetes

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/manifest"
)

// Both rewrite testdata/schema.json: go test ./packaging/kubernetes -release
// v1.36.3 -swagger FILE, where FILE is that release's api/openapi-spec/swagger.json.
var (
	swagger = flag.String("swagger", "", "make testdata/schema.json of Kubernetes' `swagger.json`")
	release = flag.String("release", "", "`version` of Kubernetes that it is of")
)

const (
	schemaFile = "testdata/schema.json"
	prefix     = "#/definitions/"
)

// kinds are the definitions of all that is in our manifests.
var kinds = map[string]string{
	"v1 Pod": "io.k8s.api.core.v1.Pod", "v1 Namespace": "io.k8s.api.core.v1.Namespace", "v1 ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
	"apps/v1 Deployment": "io.k8s.api.apps.v1.Deployment", "apps/v1 DaemonSet": "io.k8s.api.apps.v1.DaemonSet",
	"node.k8s.io/v1 RuntimeClass":                                      "io.k8s.api.node.v1.RuntimeClass",
	"rbac.authorization.k8s.io/v1 ClusterRole":                         "io.k8s.api.rbac.v1.ClusterRole",
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding":                  "io.k8s.api.rbac.v1.ClusterRoleBinding",
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding": "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
}

// TestMain makes the schema anew if it is asked to.
func TestMain(m *testing.M) {
	flag.Parse()
	if *swagger != "" {
		if err := extract(*swagger); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// extract writes the definitions that our kinds need, without their words.
func extract(from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var all struct{ Definitions map[string]any }
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	out := make(map[string]any)
	var take func(name string)
	var strip func(v any, names bool) any
	strip = func(v any, names bool) any {
		switch v := v.(type) {
		case map[string]any:
			m := make(map[string]any)
			for key, value := range v {
				if !names && (key == "description" || strings.HasPrefix(key, "x-") || key == "default") {
					continue
				}
				m[key] = strip(value, !names && key == "properties")
				if ref, ok := value.(string); ok && key == "$ref" && !names {
					take(strings.TrimPrefix(ref, prefix))
				}
			}
			return m
		case []any:
			for i := range v {
				v[i] = strip(v[i], false)
			}
		}
		return v
	}
	take = func(name string) {
		if _, ok := out[name]; !ok {
			out[name] = nil // before what refers to itself
			out[name] = strip(all.Definitions[name], false)
		}
	}
	for _, name := range kinds {
		take(name)
	}
	text, err = json.MarshalIndent(map[string]any{"$comment": "Kubernetes " + *release + ", Apache License 2.0", "definitions": out}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(schemaFile, append(text, '\n'), 0o644)
}

// schemas compiles the schema strictly: a field that Kubernetes does not know is
// an error, as kubectl apply --validate=strict has it.
func schemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range document.(map[string]any)["definitions"].(map[string]any) {
		d := d.(map[string]any)
		if _, ok := d["properties"]; ok && d["additionalProperties"] == nil {
			d["additionalProperties"] = false
		}
		if d["format"] == "int-or-string" {
			d["type"] = []any{"integer", "string"}
		}
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	if err := c.AddResource("kubernetes.json", document); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]*jsonschema.Schema)
	for kind, name := range kinds {
		if out[kind], err = c.Compile("kubernetes.json" + prefix + name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// objects reads a file's documents.
func objects(t *testing.T, text []byte) []map[string]any {
	t.Helper()
	var out []map[string]any
	for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		js, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		o, err := jsonschema.UnmarshalJSON(bytes.NewReader(js))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.(map[string]any))
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Each manifest here, and each that secexec prints, is what Kubernetes takes.
func TestManifestsFitTheSchema(t *testing.T) {
	t.Parallel()
	schemas := schemas(t)
	seen := make(map[string]bool)
	var paths []string
	for _, pattern := range []string{"base/*.yaml", "../../kubernetes/manifest/testdata/*.yaml"} {
		found, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil || len(found) < 5 {
			t.Fatalf("%v %v", found, err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if filepath.Base(path) == "kustomization.yaml" {
			continue
		}
		for i, o := range objects(t, read(t, path)) {
			kind := fmt.Sprintf("%v %v", o["apiVersion"], o["kind"])
			schema := schemas[kind]
			if schema == nil {
				t.Errorf("%s, document %d: no schema for %s", path, i, kind)
				continue
			}
			seen[kind] = true
			if err := schema.Validate(o); err != nil {
				t.Errorf("%s, document %d: %v", path, i, err)
			}
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no manifest has a %s", kind)
		}
	}
}

// The schema is one that refuses.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	schemas := schemas(t)
	for name, text := range map[string]string{
		"unknown field":  "apiVersion: v1\nkind: Pod\nspec:\n  containers: [{name: a}]\n  runtimeClass: x\n",
		"another type":   "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: one\n  selector: {}\n  template: {}\n",
		"what must be":   "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: a}\n",
		"deep in a list": "apiVersion: v1\nkind: Pod\nspec:\n  containers: [{name: a, volumeDevices: [{name: b, path: /c}]}]\n",
	} {
		o := objects(t, []byte(text))[0]
		if err := schemas[fmt.Sprintf("%v %v", o["apiVersion"], o["kind"])].Validate(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The kustomization names each file beside it, and the RuntimeClass is the one
// that secexec prints, whose overhead is what hostagent lets a guest's unit have.
func TestBaseIsWhole(t *testing.T) {
	t.Parallel()
	k := objects(t, read(t, "base/kustomization.yaml"))[0]
	var names []string
	for _, name := range k["resources"].([]any) {
		names = append(names, "base/"+name.(string))
	}
	found, err := filepath.Glob("base/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(path string) bool { return path == "base/kustomization.yaml" })
	slices.Sort(names)
	if !slices.Equal(names, found) {
		t.Errorf("it names %v, there are %v", names, found)
	}
	text, err := manifest.Text(manifest.Workload{}, manifest.Options{Kinds: []string{manifest.RuntimeClass}, Platform: kubernetes.PlatformSE})
	if err != nil || !bytes.Equal(text, read(t, "base/runtimeclass.yaml")) {
		t.Errorf("secexec prints %s (%v)", text, err)
	}
	if manifest.Overhead<<20 != launch.Overhead || manifest.OverheadEmulated<<20 != launch.OverheadTranslated {
		t.Error("hostagent bounds units otherwise")
	}
}

// kustomize builds both, and the emulated one is what secexec prints too.
func TestKustomize(t *testing.T) {
	t.Parallel()
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl")
	}
	var version struct{ ClientVersion struct{ Minor string } }
	if text, err := exec.CommandContext(t.Context(), kubectl, "version", "--client", "-o", "json").Output(); err != nil || json.Unmarshal(text, &version) != nil {
		t.Skipf("kubectl does not tell its version: %v", err)
	}
	if minor, err := strconv.Atoi(strings.TrimSuffix(version.ClientVersion.Minor, "+")); err != nil || minor < 21 {
		t.Skipf("kubectl of Kubernetes 1.%s: its kustomize is of 2019", version.ClientVersion.Minor)
	}
	schemas := schemas(t)
	want, err := manifest.Text(manifest.Workload{}, manifest.Options{Kinds: []string{manifest.RuntimeClass}, Platform: kubernetes.PlatformEmulated})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"base", "emulated"} {
		text, err := exec.CommandContext(t.Context(), kubectl, "kustomize", dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range objects(t, text) {
			n++
			if err := schemas[fmt.Sprintf("%v %v", o["apiVersion"], o["kind"])].Validate(o); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
			if o["kind"] == "RuntimeClass" && dir == "emulated" && fmt.Sprint(o) != fmt.Sprint(objects(t, want)[0]) {
				t.Errorf("%v, secexec prints %s", o, want)
			}
		}
		if n < 7 {
			t.Errorf("%s: %d objects", dir, n)
		}
	}
}

// containerd of the machine takes the snippet for it.
func TestContainerdTakesTheRuntime(t *testing.T) {
	t.Parallel()
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		t.Skip("no containerd (Debian package containerd)")
	}
	version, err := exec.CommandContext(t.Context(), containerd, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	file, section := "containerd/containerd-1.toml", `plugins."io.containerd.grpc.v1.cri".containerd.runtimes.secexec]`
	if f := strings.Fields(string(version)); len(f) > 2 && strings.HasPrefix(strings.TrimPrefix(f[2], "v"), "2.") {
		file, section = "containerd/containerd-2.toml", `plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.secexec]`
	}
	out, err := exec.CommandContext(t.Context(), containerd, "--config", file, "config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(out), section)
	runtime, _, _ := strings.Cut(after, "[plugins")
	if !found || !strings.Contains(runtime, kubernetes.RuntimeType) || !strings.Contains(runtime, "dev.secexec.*") {
		t.Errorf("containerd's configuration has no such runtime: %s", runtime)
	}
}

// The names in the snippets, which no schema knows, are ours.
func TestSnippetsHaveOurNames(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"containerd/containerd-1.toml", "containerd/containerd-2.toml"} {
		text := string(read(t, path))
		for _, want := range []string{"runtimes." + kubernetes.RuntimeClass + "]", `runtime_type = "` + kubernetes.RuntimeType + `"`} {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %s", path, want)
			}
		}
	}
	if policy := string(read(t, "base/policy.yaml")); strings.Count(policy, "'"+kubernetes.ConditionVerified+"'") != 2 {
		t.Error("base/policy.yaml bounds another condition")
	}
}
