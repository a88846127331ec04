package kubernetes

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Kubernetes' own forms, of k8s.io/apimachinery/pkg/util/validation.
var (
	qualifiedName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelText     = regexp.MustCompile(`^(|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)$`)
)

func hash(digit string) string { return strings.Repeat(digit, 64) }

func TestNames(t *testing.T) {
	t.Parallel()
	label, err := HostKeyLabel(hash("a"))
	if err != nil || label != "secexec.dev/hostkey-"+strings.Repeat("a", 40) {
		t.Errorf("%s %v", label, err)
	}
	for _, name := range []string{LabelSE, LabelPlatform, LabelVersion, label, ResourceGuest, ConditionVerified} {
		if !qualifiedName.MatchString(name) {
			t.Errorf("%q is no name that Kubernetes takes", name)
		}
	}
	for _, bad := range []string{"", "ab", hash("A"), hash("g"), hash("a") + "a", hash("a")[1:] + "\n"} {
		if _, err := HostKeyLabel(bad); !errors.Is(err, ErrHash) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// takes tells whether the scheduler takes a node with these labels.
func takes(a *NodeAffinity, labels map[string]string) bool {
	return slices.ContainsFunc(a.Required.Terms, func(t NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.Expressions, func(e Expression) bool {
			value, there := labels[e.Key]
			return !there || !slices.Contains(e.Values, value)
		})
	})
}

// A node is taken exactly if it has one of the keys and the platform.
func TestAffinityTakesNodesThatCanStartIt(t *testing.T) {
	t.Parallel()
	node := func(platform string, usable bool, keys ...string) map[string]string {
		labels, err := Labels(Facts{Version: "v1", Platform: platform, Usable: usable, HostKeys: keys, HostKeysKnown: true})
		if err != nil {
			t.Fatal(err)
		}
		return labels
	}
	for i, c := range []struct {
		platform string
		slots    []string
		node     map[string]string
		want     bool
	}{
		{PlatformSE, []string{hash("1"), hash("2")}, node(PlatformSE, true, hash("2")), true},
		{PlatformSE, []string{hash("1")}, node(PlatformSE, true, hash("3"), hash("1")), true},
		{PlatformSE, []string{hash("1"), hash("2")}, node(PlatformSE, true, hash("3")), false},
		{PlatformSE, []string{hash("1")}, node(PlatformSE, true), false},
		{PlatformSE, []string{hash("1")}, node(PlatformSE, false, hash("1")), false},
		{PlatformSE, []string{hash("1")}, node(PlatformEmulated, true, hash("1")), false},
		{PlatformEmulated, []string{hash("1")}, node(PlatformEmulated, true, hash("1")), true},
		{PlatformEmulated, []string{hash("1")}, node(PlatformEmulated, false, hash("1")), false},
		{PlatformEmulated, []string{hash("1")}, node(PlatformSE, true, hash("1")), false},
		{PlatformSE, []string{hash("1")}, nil, false},
	} {
		a, err := Affinity(c.slots, c.platform)
		if err != nil {
			t.Fatal(err)
		}
		if takes(a, c.node) != c.want {
			t.Errorf("case %d: slots %.6v on %s, node %v: wants %v", i, c.slots, c.platform, c.node, c.want)
		}
	}
}

func TestAffinityIsOneForOneSetOfSlots(t *testing.T) {
	t.Parallel()
	a, _ := Affinity([]string{hash("2"), hash("1"), hash("2")}, PlatformSE)
	b, _ := Affinity([]string{hash("1"), hash("2")}, PlatformSE)
	if fmt.Sprint(a) != fmt.Sprint(b) || len(a.Required.Terms) != 2 {
		t.Errorf("%v, %v", a, b)
	}
	if _, err := Affinity(nil, PlatformSE); !errors.Is(err, ErrHash) {
		t.Errorf("no slots: %v", err)
	}
	if _, err := Affinity([]string{"00"}, PlatformSE); !errors.Is(err, ErrHash) {
		t.Errorf("no hash: %v", err)
	}
	if _, err := Affinity([]string{hash("1")}, "sev"); !errors.Is(err, ErrPlatform) {
		t.Errorf("no platform: %v", err)
	}
}

func TestLabelsChange(t *testing.T) {
	t.Parallel()
	one, _ := HostKeyLabel(hash("1"))
	two, _ := HostKeyLabel(hash("2"))
	usable := Facts{Version: "v1.2", Platform: PlatformSE, Usable: true, HostKeys: []string{hash("1")}, HostKeysKnown: true}
	unfit := usable
	unfit.Usable = false
	unknown := Facts{Version: "v1.2", Platform: PlatformSE, Usable: true}
	complete := map[string]string{LabelSE: "true", LabelPlatform: "se", LabelVersion: "v1.2", one: "true"}
	with := func(more ...string) map[string]string {
		m := maps.Clone(complete)
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name  string
		have  map[string]string
		facts Facts
		want  []string // key=value, key-
	}{
		{"a new node", map[string]string{"a/b": "c"}, usable, []string{one + "=true", LabelPlatform + "=se", LabelSE + "=true", LabelVersion + "=v1.2"}},
		{"nothing to do", with("a/b", "c"), usable, nil},
		{"another key", with(two, "true"), usable, []string{two + "-"}},
		{"a key of another value", with(one, "false"), usable, []string{one + "=true"}},
		{"guests can't start", complete, unfit, []string{LabelPlatform + "-", LabelSE + "-"}},
		{"keys set by hand", with(two, "true"), unknown, nil},
		{"another version", with(LabelVersion, "v1.1"), usable, []string{LabelVersion + "=v1.2"}},
		{"the platform changed", complete, Facts{Version: "v1.2", Platform: PlatformEmulated, Usable: true, HostKeys: []string{hash("2")}, HostKeysKnown: true},
			[]string{one + "-", two + "=true", LabelPlatform + "=emulated", LabelSE + "-"}},
	} {
		change, err := Change(c.have, c.facts)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, key := range slices.Sorted(maps.Keys(change)) {
			if change[key] == nil {
				got = append(got, key+"-")
			} else {
				got = append(got, key+"="+*change[key])
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, wants %v", c.name, got, c.want)
		}
	}
	if _, err := Change(nil, Facts{Platform: "sev", Usable: true}); !errors.Is(err, ErrPlatform) {
		t.Errorf("unknown platform: %v", err)
	}
}

func TestLabelValues(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "v1.2.3": "v1.2.3", "v1.2.3-4-gabc-dirty": "v1.2.3-4-gabc-dirty", "0.0~git2026+x": "0.0_git2026_x", "(devel)": "devel",
		"…": "", strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62), strings.Repeat("ä", 1000) + "x": "x",
	} {
		if got := labelValue(text); got != want || !labelText.MatchString(got) {
			t.Errorf("%q: %q, wants %q", text, got, want)
		}
	}
}

// The page for administrators has every name.
func TestPageHasTheNames(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/node-agent.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		LabelSE, LabelPlatform, LabelVersion, LabelHostKey + "…", ResourceGuest, RuntimeClass, RuntimeType, ConditionVerified, AnnotationIdentity, AnnotationImageID,
	} {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/node-agent.md does not name %s", name)
		}
	}
}
