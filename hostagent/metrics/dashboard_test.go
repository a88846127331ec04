package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const (
	rulesFile     = "../../packaging/prometheus/secexec.rules.yml"
	rulesTests    = "../../packaging/prometheus/secexec.rules.test.yml"
	dashboardFile = "../../packaging/grafana/secexec.json"
)

// rules are the alerts' names and expressions.
func rules(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			out[r.Alert] = r.Expr
		}
	}
	return out
}

// queries finds every expression and query of the dashboard, wherever it stands.
func queries(t *testing.T) (out []string) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var file any
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				if s, ok := inner.(string); ok && (key == "expr" || key == "query" && strings.Contains(s, "(")) {
					out = append(out, s)
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(file)
	return out
}

var (
	selector = regexp.MustCompile(`\b((?:secexec|process|go)_[a-z_]+|up)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=|!=|=~|!~)\s*"`)
	grouping = regexp.MustCompile(`by \(([a-z_, ]+)\)`)
)

// wrong tells what an expression names that a live scrape does not have.
func wrong(expr string, labels map[string][]string) (out []string) {
	var all []string
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		has, ok := labels[m[1]]
		if !ok {
			out = append(out, "metric "+m[1])
			continue
		}
		has = append([]string{"job", "instance"}, has...)
		all = append(all, has...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(has, l[1]) {
				out = append(out, "label "+l[1]+" of "+m[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(all, l) {
				out = append(out, "label "+l)
			}
		}
	}
	if all == nil {
		out = append(out, "no metric at all")
	}
	return out
}

// Dashboard and alerts name only metrics and labels that a live scrape has.
func TestDashboardAndAlerts(t *testing.T) {
	t.Parallel()
	labels := map[string][]string{"up": nil} // Prometheus's own
	for line := range strings.Lines(string(full().Text())) {
		if name, rest, ok := strings.Cut(strings.Fields(line)[0], "{"); !strings.HasPrefix(line, "#") {
			var has []string
			if ok {
				for _, m := range matcher.FindAllStringSubmatch(rest, -1) {
					has = append(has, m[1])
				}
			}
			labels[name] = has
		}
	}
	if len(wrong(`sum by (guest) (secexec_nothing{x="1"})`, labels)) == 0 || len(wrong(`up{guest="a"}`, labels)) == 0 {
		t.Fatal("this test finds nothing wrong")
	}
	alerts, shown := rules(t), queries(t)
	if len(alerts) < 10 || len(shown) < 20 {
		t.Fatalf("%d alerts, %d queries", len(alerts), len(shown))
	}
	for name, expr := range alerts {
		for _, w := range wrong(expr, labels) {
			t.Errorf("alert %s names %s, which no scrape has", name, w)
		}
	}
	used := ""
	for _, expr := range shown {
		used += expr + "\n"
		for _, w := range wrong(expr, labels) {
			t.Errorf("dashboard's %s names %s, which no scrape has", expr, w)
		}
	}
	if strings.Count(used, "{") != strings.Count(used, "}") || strings.Count(used, "(") != strings.Count(used, ")") {
		t.Error("brackets of the dashboard's queries don't match")
	}
}

// Each alert fires where it has to, by Prometheus's own judgement, and has a case
// that says so.
func TestAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(rulesTests)
	if err != nil {
		t.Fatal(err)
	}
	for name := range rules(t) {
		if !regexp.MustCompile(`- name: ` + name + "\n").Match(text) {
			t.Errorf("alert %s has no case in %s", name, rulesTests)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool (Debian: prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", rulesTests}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Prometheus takes the dashboard's queries: as expressions of rules.
func TestQueries(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool (Debian: prometheus)")
	}
	var file struct {
		Groups []map[string]any `yaml:"groups"`
	}
	var rules []map[string]string
	for i, q := range queries(t) {
		if !strings.HasPrefix(q, "label_values") {
			rules = append(rules, map[string]string{"record": "q" + strings.Repeat("x", i), "expr": strings.ReplaceAll(q, "$__rate_interval", "5m")})
		}
	}
	file.Groups = []map[string]any{{"name": "dashboard", "rules": rules}}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/rules.yml"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
