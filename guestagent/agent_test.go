package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

func handoff() *sealed.Handoff {
	return &sealed.Handoff{
		IdentitySeed: bytes.Repeat([]byte{7}, 32), ImageID: [16]byte{1}, RootID: [16]byte{2}, BootID: [16]byte{3}, StopSignal: 38,
		Stages: []sealed.Stage{{Name: readiness.StageKernel, Millis: 1000}},
	}
}

func TestAgentAnswers(t *testing.T) {
	t.Parallel()
	stops := 0
	h := handoff()
	a := newAgent(h, make(ed25519.PublicKey, 32), 6, func() { stops++ }, nil)
	identity := a.identity.Public().(ed25519.PublicKey)
	h.Wipe() // the agent does not depend on it
	a.do(a.guest.HandedOver(2000))
	said(a)

	answer := func(line string) string {
		a.do(a.guest.Read([]byte(line+"\n"), 2000))
		return said(a)
	}
	if got := answer("PING 0a"); got != "HELLO 3 guestagent 03000000000000000000000000000000\nSTAGE kernel 1000\nSTAGE running 2000\nSTAGE ready 2000\nPONG 0a\n" {
		t.Errorf("ping: %q", got)
	}
	nonce := bytes.Repeat([]byte{0x5e}, 32)
	line := strings.TrimSuffix(answer(readiness.Challenge{Nonce: [32]byte(nonce)}.String()), "\n")
	m, err := readiness.ParseGuest(line)
	if err != nil {
		t.Fatal(err)
	}
	c, err := report.Verify(identity, nonce, m.(readiness.Report).COSE)
	if err != nil || c.ImageID[0] != 1 || c.RootID[0] != 2 || c.BootID[0] != 3 || len(c.Stages) != 3 || c.RootMode != "crypt" || c.ReadyAt != "handover" {
		t.Errorf("report: %+v %v", c, err)
	}
	if _, err := report.Verify(identity, make([]byte, 32), m.(readiness.Report).COSE); !errors.Is(err, report.ErrNonce) {
		t.Errorf("report for another nonce: %v", err)
	}
	if got := answer("POWEROFF"); stops != 1 || got != "BYE\n" {
		t.Errorf("power off: %d %v", stops, got)
	}
	for _, line := range []string{"", "CHALLENGE 00", "EXEC /bin/sh", "PING", "HELLO 1 guestagent x"} {
		if got := answer(line); got != "" {
			t.Errorf("%q is answered: %v", line, got)
		}
	}
	if stops != 1 {
		t.Errorf("%d power-offs", stops)
	}
}

// said takes all that waits to be written.
func said(a *agent) string {
	var out []byte
	for b := a.out.Pending(); b != nil; b = a.out.Pending() {
		out = append(out, b...)
		a.out.Wrote(len(b))
	}
	return string(out)
}

// What the workload says of itself goes to the owner; the host learns of READY=1
// alone.
func TestAgentNotified(t *testing.T) {
	t.Parallel()
	h := handoff()
	h.Ready, h.StopSignal = sealed.ReadyAtNotify, 0
	restarts := 0
	a := newAgent(h, make(ed25519.PublicKey, 32), 6, func() {}, func() { restarts++ })
	a.heard(workload.Running{}.Bytes(), 10)
	a.notified([]byte("STATUS=canary loads"), 20)
	if s := a.Status(); s.State != readiness.Running || s.Text != "canary loads" || !s.Healthy {
		t.Errorf("%+v", s)
	}
	a.notified([]byte("READY=0"), 30)
	a.notified([]byte("READY=1\nSTATUS=canary serves"), 30)
	a.notified([]byte("WATCHDOG=trigger"), 40)
	a.heard([]byte("DONE 300"), 50)
	a.heard(workload.Exited{Status: 9}.Bytes(), 50)
	a.heard(workload.Done{Status: 9}.Bytes(), 60)
	if got := said(a); got != "STAGE running 10\nSTAGE ready 30\nBYE\n" { // to a host of version 1: no EXIT
		t.Errorf("said %q", got)
	}
	if s := a.Status(); restarts != 1 || s.State != readiness.Ended || s.Text != "canary serves" {
		t.Errorf("%d restarts, %+v", restarts, s)
	}
}
