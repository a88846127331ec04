// Package metrics counts what hostagent does and shows it to Prometheus.
//
// It writes Prometheus's text format itself: client_golang and net/http would be
// a third of hostagent's memory. Counters are a few words each; the rest is read
// when somebody scrapes, and nothing is when nobody does.
package metrics

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// kind is a metric's type in the exposition.
type kind string

const (
	counter   kind = "counter"
	gauge     kind = "gauge"
	histogram kind = "histogram"
)

// Desc says what a metric is.
type Desc struct {
	Name   string
	Help   string
	Kind   string   // counter, gauge, histogram
	Labels []string // names, in order
}

// source is a metric that can be read.
type source interface {
	desc() *Desc
	samples() []sample
}

// sample is one line of a metric.
type sample struct {
	values  []string // of the labels
	value   float64
	buckets []uint64 // of a histogram, not cumulated, one more than bounds
	bounds  []float64
}

// maxSeries bounds the series of one metric. Labels are of bounded sets; this is
// the second lock. What comes beyond is counted under "other".
const maxSeries = 512

// Registry is a set of metrics.
type Registry struct {
	mu      sync.Mutex
	sources []source
}

func (r *Registry) add(s source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources = append(r.sources, s)
}

func (r *Registry) all() []source {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sources)
}

// Descs lists all metrics, by name.
func (r *Registry) Descs() []Desc {
	var out []Desc
	for _, s := range r.all() {
		out = append(out, *s.desc())
	}
	slices.SortFunc(out, func(a, b Desc) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// series is a value for each combination of labels that was seen.
type series[T any] struct {
	d    Desc
	make func() *T

	mu sync.Mutex
	by map[string]*entry[T]
}

type entry[T any] struct {
	values []string
	v      *T
}

func (s *series[T]) desc() *Desc { return &s.d }

// with is the value of some labels, made at the first time.
func (s *series[T]) with(values []string) *T {
	if len(values) != len(s.d.Labels) {
		panic("metrics: " + s.d.Name + " has other labels")
	}
	key := ""
	for _, v := range values {
		key += v + "\x00"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.by[key]
	if e == nil {
		values = slices.Clone(values)
		if len(s.by) >= maxSeries {
			for i := range values {
				values[i] = "other"
			}
			return s.otherLocked(values)
		}
		e = &entry[T]{values, s.make()}
		s.by[key] = e
	}
	return e.v
}

func (s *series[T]) otherLocked(values []string) *T {
	e := s.by["other"]
	if e == nil {
		e = &entry[T]{values, s.make()}
		s.by["other"] = e
	}
	return e.v
}

// each calls do for every combination, in the order of their labels.
func (s *series[T]) each(do func(values []string, v *T)) {
	s.mu.Lock()
	all := make([]*entry[T], 0, len(s.by))
	for _, e := range s.by {
		all = append(all, e)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *entry[T]) int { return slices.Compare(a.values, b.values) })
	for _, e := range all {
		do(e.values, e.v)
	}
}

// Counter only goes up.
type Counter struct{ series[atomic.Uint64] }

// Counter makes a counter. Without labels it is 0 from the start.
func (r *Registry) Counter(name, help string, labels ...string) *Counter {
	c := &Counter{series[atomic.Uint64]{
		d: Desc{name, help, string(counter), labels}, make: func() *atomic.Uint64 { return new(atomic.Uint64) }, by: make(map[string]*entry[atomic.Uint64]),
	}}
	if len(labels) == 0 {
		c.with(nil)
	}
	r.add(c)
	return c
}

// Add counts n more.
func (c *Counter) Add(n uint64, values ...string) { c.with(values).Add(n) }

// Inc counts one more.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

func (c *Counter) samples() (out []sample) {
	c.each(func(values []string, v *atomic.Uint64) {
		out = append(out, sample{values: values, value: float64(v.Load())})
	})
	return out
}

// Histogram counts durations by size.
type Histogram struct {
	series[buckets]
	bounds []float64 // seconds, ascending
}

type buckets struct {
	mu     sync.Mutex
	counts []uint64 // not cumulated; the last one is +Inf
	sum    float64
}

// Histogram makes a histogram of seconds.
func (r *Registry) Histogram(name, help string, bounds []float64, labels ...string) *Histogram {
	h := &Histogram{series[buckets]{
		d:    Desc{name, help, string(histogram), labels},
		make: func() *buckets { return &buckets{counts: make([]uint64, len(bounds)+1)} }, by: make(map[string]*entry[buckets]),
	}, bounds}
	if len(labels) == 0 {
		h.with(nil)
	}
	r.add(h)
	return h
}

// Observe counts a duration; a negative one, of a clock that was set, is 0.
func (h *Histogram) Observe(d time.Duration, values ...string) {
	seconds := max(0, d.Seconds())
	i, _ := slices.BinarySearch(h.bounds, seconds)
	b := h.with(values)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[i]++
	b.sum += seconds
}

func (h *Histogram) samples() (out []sample) {
	h.each(func(values []string, b *buckets) {
		b.mu.Lock()
		defer b.mu.Unlock()
		out = append(out, sample{values: values, value: b.sum, buckets: slices.Clone(b.counts), bounds: h.bounds})
	})
	return out
}

// Value is one line of a metric that is read at a scrape.
type Value struct {
	Labels []string
	Value  float64
}

// read is a metric that is read at a scrape.
type read struct {
	d  Desc
	do func() []Value
}

func (r *read) desc() *Desc { return &r.d }

func (r *read) samples() (out []sample) {
	for _, v := range r.do() {
		out = append(out, sample{values: v.Labels, value: v.Value})
	}
	return out
}

// Read adds a gauge, or with a name that ends in _total a counter, that is read
// when somebody scrapes.
func (r *Registry) Read(name, help string, labels []string, do func() []Value) {
	k := gauge
	if isTotal(name) {
		k = counter
	}
	r.add(&read{Desc{name, help, string(k), labels}, do})
}

// One is the only line of a metric without labels.
func One(v float64) []Value { return []Value{{Value: v}} }
