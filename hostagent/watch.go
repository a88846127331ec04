package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/health"
	"github.com/secexec/secexec/hostagent/metrics"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/hostagent/usage"
	"github.com/secexec/secexec/hostagent/witness"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// watch runs what tells operators how hostagent and its guests are: log, metrics
// and systemd's view. The returned function ends it.
func watch(ctx context.Context, c *settings.Settings, scraped []net.Listener, gid int, fleet *guest.Fleet, follower *witness.Witness, well *health.Health, set *metrics.Set) (stop func(), err error) {
	network, address, err := metrics.Address(c.Metrics, c.MetricsRemote)
	if err != nil {
		return nil, err
	}
	if network != "" {
		l, err := metrics.Listen(network, address, gid)
		if err != nil {
			return nil, err
		}
		scraped = append(scraped, l)
	}
	well.Checks[health.State] = health.Writable(c.State)
	well.Set(health.State, well.Checks[health.State](ctx))
	well.Set(health.Records, nil)
	if n := set.Damaged(); n > 0 {
		well.Set(health.Records, fmt.Errorf("%d: see journalctl SECEXEC_EVENT=record-damaged", n))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // up to the end of main's work
	var running sync.WaitGroup
	running.Go(func() { follower.Run(ctx, func() []store.Guest { return snapshots(fleet) }) })
	running.Go(func() { well.Run(ctx) })
	if scraped != nil {
		set.Guests(uses(fleet))
		set.Process()
		set.Problems(well.Well)
	}
	for _, l := range scraped {
		running.Go(func() { set.Serve(ctx, l) })
	}
	return func() { cancel(); running.Wait() }, nil
}

// snapshots are all guests as they are now.
func snapshots(f *guest.Fleet) []store.Guest {
	guests := f.List()
	out := make([]store.Guest, len(guests))
	for i, g := range guests {
		out[i] = g.Snapshot()
	}
	return out
}

// states counts guests by state.
func states(f *guest.Fleet) map[string]int {
	out := make(map[string]int)
	for _, g := range snapshots(f) {
		out[g.State]++
	}
	return out
}

// answers returns a check that no lock of the fleet is held for good.
func answers(f *guest.Fleet) func(context.Context) error {
	return func(context.Context) error {
		snapshots(f)
		return nil
	}
}

// uses reads what all guests take, for metrics.
func uses(f *guest.Fleet) func() []*hostagentv1.GuestUsage {
	return func() []*hostagentv1.GuestUsage {
		now := time.Now()
		var out []*hostagentv1.GuestUsage
		for _, rec := range snapshots(f) {
			out = append(out, api.Usage(usage.Reader{}, &rec, now))
		}
		return out
	}
}
