package metrics

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// ContentType is the text format's.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

func isTotal(name string) bool { return strings.HasSuffix(name, "_total") }

// Text is all metrics in Prometheus's text format, by name.
// Source: https://prometheus.io/docs/instrumenting/exposition_formats
func (r *Registry) Text() []byte {
	var b bytes.Buffer
	sources := r.all()
	slices.SortFunc(sources, func(x, y source) int { return strings.Compare(x.desc().Name, y.desc().Name) })
	for _, s := range sources {
		d := s.desc()
		samples := s.samples()
		if len(samples) == 0 {
			continue
		}
		b.WriteString("# HELP " + d.Name + " " + help.Replace(d.Help) + "\n# TYPE " + d.Name + " " + d.Kind + "\n")
		for _, one := range samples {
			if one.buckets == nil {
				line(&b, d.Name, d.Labels, one.values, "", one.value)
				continue
			}
			sum := uint64(0)
			for i, n := range one.buckets {
				sum += n
				le := "+Inf"
				if i < len(one.bounds) {
					le = number(one.bounds[i])
				}
				line(&b, d.Name+"_bucket", d.Labels, one.values, le, float64(sum))
			}
			line(&b, d.Name+"_sum", d.Labels, one.values, "", one.value)
			line(&b, d.Name+"_count", d.Labels, one.values, "", float64(sum))
		}
	}
	return b.Bytes()
}

var (
	help  = strings.NewReplacer("\\", `\\`, "\n", `\n`)
	label = strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`)
)

// line writes one sample; le is a bucket's upper bound, or "".
func line(b *bytes.Buffer, name string, labels, values []string, le string, v float64) {
	b.WriteString(name)
	sep := byte('{')
	add := func(name, value string) {
		b.WriteByte(sep)
		b.WriteString(name + `="` + label.Replace(strings.ToValidUTF8(value, "\ufffd")) + `"`)
		sep = ','
	}
	for i, l := range labels {
		add(l, values[i])
	}
	if le != "" {
		add("le", le)
	}
	if sep == ',' {
		b.WriteByte('}')
	}
	b.WriteString(" " + number(v) + "\n")
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
