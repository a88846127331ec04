package main

import (
	"crypto/ed25519"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/sealed"
)

// agent answers the host's lines. It is pure: lines in, lines and effects out.
type agent struct {
	identity ed25519.PrivateKey
	claims   report.Claims // all but the nonce
	bootID   [readiness.IDSize]byte
	powerOff func() // asks the root's init to power off
}

// newAgent takes over a handoff; the seed is copied into the identity key.
func newAgent(h *sealed.Handoff, bootKey ed25519.PublicKey, powerOff func()) *agent {
	a := &agent{
		identity: ed25519.NewKeyFromSeed(h.IdentitySeed),
		claims: report.Claims{
			ImageID: h.ImageID[:], BootID: h.BootID[:], RootID: h.RootID[:], BootKey: bootKey,
		},
		bootID:   h.BootID,
		powerOff: powerOff,
	}
	for _, s := range h.Stages {
		a.claims.Stages = append(a.claims.Stages, report.Stage{Name: s.Name, Millis: s.Millis})
	}
	return a
}

// pass records a stage and returns the line that tells of it.
func (a *agent) pass(name string, millis uint64) readiness.Message {
	a.claims.Stages = append(a.claims.Stages, report.Stage{Name: name, Millis: millis})
	return readiness.Stage{Name: name, Millis: millis}
}

// answer returns the answer to one line of the host's: none for what is not of
// the protocol.
func (a *agent) answer(line string) []readiness.Message {
	m, err := readiness.ParseHost(line)
	if err != nil {
		return nil
	}
	switch m := m.(type) {
	case readiness.Ping:
		out := []readiness.Message{readiness.Hello{Speaker: "guestagent", BootID: a.bootID}}
		for _, s := range a.claims.Stages {
			out = append(out, readiness.Stage{Name: s.Name, Millis: s.Millis})
		}
		return append(out, readiness.Pong{Token: m.Token})
	case readiness.Challenge:
		claims := a.claims
		claims.Nonce = m.Nonce[:]
		raw, err := report.Sign(a.identity, claims)
		if err != nil {
			return nil
		}
		return []readiness.Message{readiness.Report{COSE: raw}}
	case readiness.PowerOff:
		a.powerOff()
		return []readiness.Message{readiness.Bye{}}
	}
	return nil
}
