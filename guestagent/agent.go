package main

import (
	"crypto/ed25519"
	"slices"
	"sync"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// agent is the guest's end of the readiness protocol with its key: it does what
// package readiness decides. Its loop owns it; Status alone is for others.
type agent struct {
	guest    *readiness.Guest
	out      readiness.Outbox
	identity ed25519.PrivateKey
	claims   report.Claims // all but nonce and stages

	stop    func() // asks the workload to end and the guest to power off
	restart func() // asks guestinit to run the workload again

	owner *memory // what the owner may ask of the workload; nil without a channel

	mu     sync.Mutex
	status Status
}

// Status is what the owner may ask of the workload beside the report.
type Status struct {
	State   readiness.GuestState
	Text    string // of the workload's STATUS=: printable, at most workload.MaxStatus bytes
	Healthy bool   // it keeps its watchdog's time
	Stages  []readiness.Stage
}

// Status returns the workload's status as of now.
func (a *agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// newAgent takes over a handoff; the seed is copied into the identity key.
func newAgent(h *sealed.Handoff, bootKey ed25519.PublicKey, now uint64, stop, restart func()) *agent {
	var passed []readiness.Stage
	for _, s := range h.Stages {
		passed = append(passed, readiness.Stage(s))
	}
	if h.StopSignal == 0 && h.Channel != nil && len(h.Channel.Secrets) > 0 {
		passed = append(passed, readiness.Stage{Name: readiness.StageSecrets, Millis: now})
	}
	a := &agent{
		guest:    readiness.NewGuest(h.BootID, h.Ready == sealed.ReadyAtNotify, h.StopSignal == 0, passed),
		identity: ed25519.NewKeyFromSeed(h.IdentitySeed),
		claims: report.Claims{
			ImageID: h.ImageID[:], BootID: h.BootID[:], RootID: h.RootID[:], BootKey: bootKey,
			RootMode: report.RootModes[h.RootMode], ReadyAt: report.ReadyAts[h.Ready], Profile: report.Profile,
		},
		stop: stop, restart: restart,
	}
	a.do(nil)
	return a
}

// do does what the machine wants done, in order.
func (a *agent) do(effects []readiness.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case readiness.Sign:
			if raw, err := report.Sign(a.identity, a.over(e.Nonce)); err == nil {
				a.out.Put(readiness.Report{COSE: raw})
			}
		case readiness.Stop:
			a.stop()
		case readiness.Restart:
			a.restart()
		case readiness.Message:
			a.out.Put(e)
		}
	}
	text, healthy := a.guest.Health()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = Status{State: a.guest.State(), Text: text, Healthy: healthy, Stages: slices.Clone(a.guest.Stages())}
}

// over are the claims as of now over a nonce.
func (a *agent) over(nonce [readiness.NonceSize]byte) report.Claims {
	c := a.claims
	c.Nonce = nonce[:]
	for _, s := range a.guest.Stages() {
		c.Stages = append(c.Stages, report.Stage{Name: s.Name, Millis: s.Millis})
	}
	return c
}

// heard takes a packet of guestinit's.
func (a *agent) heard(b []byte, now uint64) {
	m, err := workload.ParseInit(b)
	if err != nil {
		return
	}
	if a.owner != nil {
		a.owner.hear(m, now)
	}
	switch m := m.(type) {
	case workload.Running:
		a.do(a.guest.HandedOver(now))
	case workload.Exited:
		a.guest.Exited()
	case workload.Failed:
		a.do(a.guest.Failed(m.Code, now))
	case workload.Done:
		a.do(a.guest.Done(m.Status))
	}
}

// notified takes a datagram of the workload's.
func (a *agent) notified(b []byte, now uint64) {
	if n, err := workload.ParseNotification(b); err == nil {
		a.do(a.guest.Notified(n, now))
	}
}
