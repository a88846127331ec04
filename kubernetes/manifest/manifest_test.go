package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/secexec/secexec/kubernetes"
)

var update = flag.Bool("update", false, "rewrite golden files")

func sample() Workload {
	return Workload{
		Name: "hello", ImageID: strings.Repeat("0a", 16), Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
		HostKeys: []string{strings.Repeat("5e", 32), strings.Repeat("12", 32)},
	}
}

func options(kinds ...string) Options {
	return Options{Kinds: kinds, Image: "registry.example.com/team/hello:1", Replicas: 1, CPUs: 1, Platform: kubernetes.PlatformSE}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){
		"pod":          func(o *Options) { o.Kinds = []string{Pod} },
		"runtimeclass": func(o *Options) { o.Kinds = []string{RuntimeClass}; o.Image = "" },
		"deployment": func(o *Options) {
			o.Kinds, o.Name, o.Namespace, o.Replicas, o.CPUs, o.MemoryMiB = []string{Deployment, RuntimeClass}, "web", "shop", 3, 2, 1024
		},
		"emulated": func(o *Options) {
			o.Kinds, o.Platform, o.RuntimeClass, o.Restart = []string{RuntimeClass, Pod}, kubernetes.PlatformEmulated, "sealed.test", "Never"
		},
		"disks": func(o *Options) {
			o.Kinds, o.Disks = []string{Deployment}, []Disk{{"data", "hello-data"}, {"logs", "hello.logs"}}
		},
		// Words and numbers of YAML as names.
		"words": func(o *Options) { o.Kinds, o.Name, o.Namespace, o.Image = []string{Pod}, "on", "123", "no" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options()
			change(&o)
			got, err := Text(sample(), o)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwants %s (%v)", got, path, err)
			}
			for doc := range strings.SplitSeq(strings.TrimPrefix(string(got), "---\n"), "---\n") {
				if _, err := yaml.YAMLToJSON([]byte(doc)); err != nil {
					t.Errorf("no YAML: %v", err)
				}
			}
		})
	}
}

// What is written reads as what was meant, whatever the text.
func TestScalarsStayStrings(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"a", "on", "Yes", "NULL", "~", "1", "1e3", "0x1f", "-", "- a", "a: b", "a #b", "a:b", "'", `"`, `\`, " a", "a ", "é", "\u2028", "\t", "a\nb", "{a}", "*a", "&a", "!a", "%a", "@a", "`a", "2001-01-01", ".inf", "=", "<<", "y",
	} {
		var b bytes.Buffer
		document(&b, object{{"k", s}, {"l", list{s, object{{s, list{s}}}}}})
		text, err := yaml.YAMLToJSON(bytes.TrimPrefix(b.Bytes(), []byte("---\n")))
		if err != nil {
			t.Errorf("%q: %v\n%s", s, err, b.Bytes())
			continue
		}
		var got struct {
			K string
			L []any
		}
		if err := json.Unmarshal(text, &got); err != nil || got.K != s || len(got.L) != 2 || got.L[0] != s {
			t.Errorf("%q became %s: %v", s, text, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Workload, *Options)
		words  string
	}{
		"no kind":        {func(_ *Workload, o *Options) { o.Kinds = nil }, "no kind"},
		"kind":           {func(_ *Workload, o *Options) { o.Kinds = []string{"job"} }, `"job" is none of`},
		"both":           {func(_ *Workload, o *Options) { o.Kinds = []string{Pod, Deployment} }, "choose one"},
		"name":           {func(_ *Workload, o *Options) { o.Name = "a-" }, "--name"},
		"workload":       {func(w *Workload, _ *Options) { w.Name = strings.Repeat("a", 64) }, "--name"},
		"namespace":      {func(_ *Workload, o *Options) { o.Namespace = "A" }, "namespace"},
		"no image":       {func(_ *Workload, o *Options) { o.Image = "" }, "--image"},
		"image":          {func(_ *Workload, o *Options) { o.Image = "a b" }, "no reference"},
		"replicas":       {func(_ *Workload, o *Options) { o.Replicas = -1 }, "replicas"},
		"CPUs":           {func(_ *Workload, o *Options) { o.CPUs = 0 }, "CPUs"},
		"memory":         {func(_ *Workload, o *Options) { o.MemoryMiB = 1 }, "memory"},
		"platform":       {func(_ *Workload, o *Options) { o.Platform = "sev" }, "unknown platform"},
		"class platform": {func(_ *Workload, o *Options) { o.Kinds, o.Platform = []string{RuntimeClass}, "sev" }, "unknown platform"},
		"runtime class":  {func(_ *Workload, o *Options) { o.RuntimeClass = "a..b" }, "runtime class"},
		"restart":        {func(_ *Workload, o *Options) { o.Restart = "always" }, "restart policy"},
		"restart, deployment": {func(_ *Workload, o *Options) {
			o.Kinds, o.Restart = []string{Deployment}, "Never"
		}, "print a Pod"},
		"disk":       {func(_ *Workload, o *Options) { o.Disks = []Disk{{"a,b", "c"}} }, "serial"},
		"disk twice": {func(_ *Workload, o *Options) { o.Disks = []Disk{{"a", "c"}, {"a", "d"}} }, "serial"},
		"claim":      {func(_ *Workload, o *Options) { o.Disks = []Disk{{"a", "C"}} }, "claim"},
		"many disks": {func(_ *Workload, o *Options) { o.Disks = make([]Disk, 17) }, "17 disks"},
		"shared disk": {func(_ *Workload, o *Options) {
			o.Kinds, o.Replicas, o.Disks = []string{Deployment}, 2, []Disk{{"a", "c"}}
		}, "same disks"},
		"no slots": {func(w *Workload, _ *Options) { w.HostKeys = nil }, "no key slot"},
		"slot":     {func(w *Workload, _ *Options) { w.HostKeys = []string{"00"} }, "host key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, o := sample(), options(Pod)
			c.change(&w, &o)
			if text, err := Text(w, o); !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), c.words) || text != nil {
				t.Errorf("%v, wants words %q", err, c.words)
			}
		})
	}
}
