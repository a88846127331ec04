// Package agent is the node agent: it tells Kubernetes what hostagent knows of
// its node, and keeps that true.
//
// It labels its Node (package kubernetes has the labels), offers places for guests
// to kubelet (package deviceplugin), and makes pods ready whose guest gave a
// report that verifies: their readiness gate. It asks hostagent at intervals and
// whenever a guest changes, and forgets nothing that matters when it ends: all it
// knows it can ask again.
//
// When it ends, labels stay: what they say does not change by that, and running
// pods don't mind. Places go away with its connection to kubelet, so no further
// guest comes to a node without an agent.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/deviceplugin"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Times.
const (
	DefaultEvery    = 30 * time.Second
	DefaultPatience = time.Minute
	// soon is when a pod is looked at again whose guest may be ready by then, at
	// first; maxSoon bounds how this grows.
	soon    = time.Second
	maxSoon = 15 * time.Second
	// quiet passes between two looks, however many guests change.
	quiet    = 200 * time.Millisecond
	redial   = 2 * time.Second
	maxAsked = 8 // guests that are asked for a report
)

// Agent is a node's. Set its fields, then Run.
type Agent struct {
	Node   string // name of the Node object
	Server *Server
	Dial   func(context.Context) (*client.Client, error) // to hostagent
	Plugin *deviceplugin.Plugin
	Places Places
	Every  time.Duration // between two looks at the node; 0: DefaultEvery
	// Patience is how long hostagent may not answer, as while it is upgraded, before
	// no guest can start on its node; 0: DefaultPatience.
	Patience time.Duration
	Log      *slog.Logger

	facts    kubernetes.Facts // as last known
	places   int
	heard    time.Time             // when hostagent last answered
	problem  string                // why guests can't start here, "" if they can
	verified map[attempt]condition // pods whose guest was verified
	told     map[string]string     // by what was tried: the last error logged
	figures  figures
}

// attempt is one start of a pod's guest.
type attempt struct {
	uid, guest string
	started    int64
}

// Run keeps all true until the context is done.
func (a *Agent) Run(ctx context.Context) {
	if a.Every <= 0 {
		a.Every = DefaultEvery
	}
	if a.Patience <= 0 {
		a.Patience = DefaultPatience
	}
	a.heard, a.verified, a.told = time.Now(), make(map[attempt]condition), make(map[string]string)
	changed := make(chan struct{}, 1)
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() { a.Plugin.Run(ctx) })
	others.Go(func() { a.follow(ctx, changed) })
	pause, next := soon, time.Time{}
	for {
		if !time.Now().Before(next) {
			next = time.Now().Add(a.Every)
			a.node(ctx)
		}
		wait := time.Until(next)
		if a.pods(ctx) {
			wait = min(wait, pause)
			pause = min(2*pause, maxSoon)
		} else {
			pause = soon
		}
		if !sleep(ctx, quiet) {
			return
		}
		select {
		case <-changed:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// follow tells of each change of a guest, and of a hostagent that is back.
func (a *Agent) follow(ctx context.Context, changed chan<- struct{}) {
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for {
		if c, err := a.Dial(ctx); err == nil {
			stream, err := c.Events(ctx, "")
			for err == nil {
				tell()
				_, err = stream.Next()
			}
			c.Close()
		}
		if !sleep(ctx, redial) {
			return
		}
	}
}

// node asks hostagent about the node, labels it and offers its places.
func (a *Agent) node(ctx context.Context) {
	info, guests, err := a.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	a.tell("ask hostagent", err)
	switch {
	case err == nil:
		a.heard = time.Now()
		a.facts, a.places = factsOf(info), a.Places.of(info, guests)
		a.judged(info.Problem)
	case time.Since(a.heard) > a.Patience:
		a.facts.Usable = false
		a.judged(fmt.Sprintf("hostagent does not answer: %v", err))
	}
	a.Plugin.Set(devices(a.places, a.facts.Usable), a.problem)
	a.figures.answers.Store(err == nil)
	a.figures.usable.Store(a.facts.Usable)
	a.figures.places.Store(int64(a.places))
	if a.facts.Platform == "" && err != nil && time.Since(a.heard) <= a.Patience {
		return // nothing is known yet
	}
	change, err := a.Server.label(ctx, a.Node, a.facts)
	if ctx.Err() != nil {
		return
	}
	a.tell("label the node", err)
	for _, key := range slices.Sorted(maps.Keys(change)) {
		if value := change[key]; value != nil {
			a.Log.Info("node labelled", "node", a.Node, "label", key, "value", *value)
		} else {
			a.Log.Info("label taken from node", "node", a.Node, "label", key)
		}
	}
}

func (a *Agent) ask(ctx context.Context) (*hostagentv1.NodeInfoResponse, []*hostagentv1.Guest, error) {
	c, err := a.Dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	info, err := c.NodeInfo(ctx)
	if err != nil {
		return nil, nil, err
	}
	guests, err := c.List(ctx)
	return info, guests, err
}

// judged logs what changed about whether guests can start here.
func (a *Agent) judged(problem string) {
	switch {
	case problem == a.problem:
	case problem == "":
		a.Log.Info("guests can start on this node again", "node", a.Node)
	default:
		a.Log.Error("no guest can start on this node", "node", a.Node, "problem", problem)
	}
	a.problem = problem
}

// tell logs an error once for as long as it stays the same, and its end.
func (a *Agent) tell(what string, err error) {
	if err != nil && a.figures.errors != nil {
		a.figures.errors.Inc(what)
	}
	switch {
	case err != nil && err.Error() != a.told[what]:
		a.told[what] = err.Error()
		a.Log.Warn("can't "+what, "error", err)
	case err == nil && a.told[what] != "":
		delete(a.told, what)
		a.Log.Info("can " + what + " again")
	}
}

// pods makes the conditions of the node's pods true. It tells whether one may be
// another soon without hostagent saying so.
func (a *Agent) pods(ctx context.Context) (again bool) {
	pods, err := a.Server.pods(ctx, a.Node)
	if ctx.Err() != nil {
		return false
	}
	a.tell("list pods", err)
	if err != nil {
		return true
	}
	if len(pods) == 0 {
		clear(a.verified)
		a.count(nil)
		return false
	}
	c, err := a.Dial(ctx)
	if err != nil {
		return true // node tells of it
	}
	defer c.Close()
	guests, err := c.List(ctx)
	if err != nil {
		return true
	}
	conditions := a.conditions(ctx, c, pods, guests)
	a.count(conditions)
	var failed error
	for i, p := range pods {
		if conditions[i].Status != "True" {
			again = true
		}
		c, another := p.update(conditions[i], time.Now())
		if !another {
			continue
		}
		switch err := a.Server.setCondition(ctx, p, c); {
		case err == nil:
			a.Log.Info("pod's condition set", "pod", p.Metadata.Namespace+"/"+p.Metadata.Name, "condition", c.Type, "status", c.Status, "reason", c.Reason, "message", c.Message)
		case !gone(err):
			failed, again = err, true
		}
	}
	if ctx.Err() == nil {
		a.tell("set conditions of pods", failed)
	}
	return again
}

// count counts pods by whether they are verified.
func (a *Agent) count(conditions []condition) {
	n := int64(0)
	for _, c := range conditions {
		if c.Status == "True" {
			n++
		}
	}
	a.figures.verified.Store(n)
	a.figures.others.Store(int64(len(conditions)) - n)
}

// conditions says what each pod's condition is, and asks guests that were not
// asked since their start.
func (a *Agent) conditions(ctx context.Context, c challenger, pods []*pod, guests []*hostagentv1.Guest) []condition {
	out, attempts := make([]condition, len(pods)), make([]attempt, len(pods))
	var asking errgroup.Group
	asking.SetLimit(maxAsked)
	for i, p := range pods {
		g := guestOf(p.container(), guests)
		if no := judge(p, g); no != nil {
			out[i] = *no
			continue
		}
		attempts[i] = attempt{p.Metadata.UID, g.Name, g.StartedUnixMs}
		if before, ok := a.verified[attempts[i]]; ok {
			out[i] = before
			continue
		}
		asking.Go(func() error {
			out[i] = verify(ctx, c, p, g)
			return nil
		})
	}
	_ = asking.Wait()
	verified := make(map[attempt]condition)
	for i, c := range out {
		if c.Status == "True" {
			verified[attempts[i]] = c
		}
	}
	a.verified = verified
	return out
}
