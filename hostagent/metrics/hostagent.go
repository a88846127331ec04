package metrics

import (
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/proto/readiness"
)

// Buckets of histograms, in seconds: of launches, where a guest under emulation
// takes minutes, and of QMP and API calls, where a millisecond is long.
var (
	launchBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
	callBuckets   = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 10}
)

// Set is hostagent's metrics. docs/metrics.md lists them.
type Set struct {
	Registry

	stages      *Histogram
	qmp         *Histogram
	qmpFailures *Counter
	qmpDropped  *Counter
	calls       *Counter
	callTimes   *Histogram
	adoptions   *Counter
	settlements *Counter
	failures    *Counter
	restarts    *Counter
	turnedAway  *Counter
	slow        *Counter
	damaged     *Counter
	logged      *Counter
}

// New makes hostagent's metrics of what it does; Guests and Process add what is
// read at a scrape.
func New(version string) *Set {
	s := &Set{}
	s.Read("secexec_build_info", "1, with this hostagent's version and Go's.", []string{"version", "goversion"}, func() []Value {
		return []Value{{[]string{version, runtime.Version()}, 1}}
	})
	s.stages = s.Histogram("secexec_launch_stage_seconds", "Time from a guest's start to each stage that it reached, by the node's clock.", launchBuckets, "stage")
	s.qmp = s.Histogram("secexec_qmp_seconds", "Time that QEMUs took to answer QMP commands.", callBuckets)
	s.qmpFailures = s.Counter("secexec_qmp_failures_total", "QMP commands that were refused or not answered.")
	s.qmpDropped = s.Counter("secexec_qmp_events_dropped_total", "Events of QEMUs that came faster than they were read.")
	s.calls = s.Counter("secexec_api_calls_total", "Calls of the API that ended, by method and error code (ok: none).", "method", "code")
	s.callTimes = s.Histogram("secexec_api_seconds", "Time that calls of the API took, without streams.", callBuckets, "method")
	s.adoptions = s.Counter("secexec_adoptions_total", "Running guests taken over from an earlier hostagent.")
	s.settlements = s.Counter("secexec_settlements_total", "Guests that an earlier hostagent left half done, by the state that they were settled to.", "outcome")
	s.failures = s.Counter("secexec_guest_failures_total", "Guests that failed, by error code.", "code")
	s.restarts = s.Counter("secexec_restarts_total", "Restarts of guests by their restart policy.")
	s.turnedAway = s.Counter("secexec_callers_turned_away_total", "Connections of processes that may not use this hostagent.")
	s.slow = s.Counter("secexec_slow_clients_total", "Streams of events that were cut off because they were not read.")
	s.damaged = s.Counter("secexec_damaged_records_total", "Records of guests that could not be read when hostagent started.")
	s.logged = s.Counter("secexec_log_events_total", "Events in the log, by name as docs/logs.md lists them.", "event")
	return s
}

// Stage counts that a guest reached a stage of its launch.
func (s *Set) Stage(name string, since time.Duration) {
	if name != "starting" && name != "unpacked" && !slices.Contains(readiness.Stages, name) {
		name = "other"
	}
	s.stages.Observe(since, name)
}

// Command implements qemu.Observer.
func (s *Set) Command(_ string, took time.Duration, err error) {
	s.qmp.Observe(took)
	if err != nil {
		s.qmpFailures.Inc()
	}
}

// Dropped implements qemu.Observer.
func (s *Set) Dropped() { s.qmpDropped.Inc() }

// Call counts a call of the API; code is "ok" or what docs/errors.md lists.
func (s *Set) Call(method, code string, took time.Duration) {
	s.calls.Inc(method, code)
	s.callTimes.Observe(took, method)
}

// Stream counts a stream of the API that ended.
func (s *Set) Stream(method, code string) { s.calls.Inc(method, code) }

var hostCode = regexp.MustCompile(`^H[0-9]{3}$`)

// Damaged is how many records of guests could not be read.
func (s *Set) Damaged() uint64 { return s.damaged.with(nil).Load() }

// Event counts a line of the log: what is logged is what is counted.
func (s *Set) Event(e journal.Event, attrs map[string]string) {
	s.logged.Inc(e.Name)
	switch e {
	case journal.Adopted.Value.Any():
		s.adoptions.Inc()
	case journal.Settled.Value.Any():
		outcome := attrs["is"]
		if outcome != "failed" && outcome != "stopped" {
			outcome = "other"
		}
		s.settlements.Inc(outcome)
	case journal.Failed.Value.Any():
		code := attrs["code"] // a guest names its own G codes: those that there are
		if readiness.Failures[code] == "" && !hostCode.MatchString(code) {
			code = "other"
		}
		s.failures.Inc(code)
	case journal.Restarted.Value.Any():
		s.restarts.Inc()
	case journal.TurnedAway.Value.Any():
		more, _ := strconv.ParseUint(attrs["more_of_the_kind"], 10, 32) // not logged each
		s.turnedAway.Add(1 + more)
	case journal.SlowReader.Value.Any():
		s.slow.Inc()
	case journal.Damaged.Value.Any():
		s.damaged.Inc()
	}
}

// Problems adds the metric of what keeps hostagent from its work: checks by
// name, and whether each is well.
func (s *Set) Problems(checks func() map[string]bool) {
	s.Read("secexec_healthy", "1 where a check of hostagent is well, 0 where systemctl status shows its problem.", []string{"check"}, func() []Value {
		var out []Value
		for name, well := range checks() {
			v := Value{Labels: []string{name}}
			if well {
				v.Value = 1
			}
			out = append(out, v)
		}
		slices.SortFunc(out, func(a, b Value) int { return strings.Compare(a.Labels[0], b.Labels[0]) })
		return out
	})
}
