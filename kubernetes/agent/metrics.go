package agent

import (
	"sync/atomic"

	"github.com/secexec/secexec/hostagent/metrics"
)

// figures are what a scrape shows of an agent, which goes on meanwhile.
type figures struct {
	usable, answers  atomic.Bool
	places           atomic.Int64
	verified, others atomic.Int64 // pods
	errors           *metrics.Counter
}

// Measure adds the agent's metrics to a registry. It is called before Run.
func (a *Agent) Measure(r *metrics.Registry) {
	f := &a.figures
	is := func(b bool) []metrics.Value {
		if b {
			return metrics.One(1)
		}
		return metrics.One(0)
	}
	f.errors = r.Counter("secexec_kubernetes_errors_total", "What the node agent tried and could not, by what it was.", "action")
	r.Read("secexec_kubernetes_hostagent_answers", "Whether hostagent answered when it was asked last.", nil, func() []metrics.Value { return is(f.answers.Load()) })
	r.Read("secexec_kubernetes_kubelet_attached", "Whether kubelet knows the node's places for guests.", nil, func() []metrics.Value { return is(a.Plugin.Attached()) })
	r.Read("secexec_kubernetes_usable", "Whether guests can start on this node now.", nil, func() []metrics.Value { return is(f.usable.Load()) })
	r.Read("secexec_kubernetes_places", "Places for guests that the node offers, whether guests can start there or not.", nil, func() []metrics.Value { return metrics.One(float64(f.places.Load())) })
	r.Read("secexec_kubernetes_pods", "Pods of this node with our readiness gate, by whether their guest's report was verified.", []string{"verified"}, func() []metrics.Value {
		return []metrics.Value{{Labels: []string{"false"}, Value: float64(f.others.Load())}, {Labels: []string{"true"}, Value: float64(f.verified.Load())}}
	})
}
