package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
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
	a := newAgent(h, make(ed25519.PublicKey, 32), func() { stops++ })
	identity := a.identity.Public().(ed25519.PublicKey)
	h.Wipe() // the agent does not depend on it
	a.pass(readiness.StageReady, 2000)

	var got []string
	for _, m := range a.answer("PING 0a") {
		got = append(got, m.String())
	}
	want := "HELLO 1 guestagent 03000000000000000000000000000000\nSTAGE kernel 1000\nSTAGE ready 2000\nPONG 0a"
	if strings.Join(got, "\n") != want {
		t.Errorf("ping: %q", got)
	}

	nonce := bytes.Repeat([]byte{0x5e}, 32)
	out := a.answer(readiness.Challenge{Nonce: [32]byte(nonce)}.String())
	if len(out) != 1 || len(out[0].String()) >= readiness.MaxLine {
		t.Fatalf("challenge: %v", out)
	}
	c, err := report.Verify(identity, nonce, out[0].(readiness.Report).COSE)
	if err != nil || c.ImageID[0] != 1 || c.RootID[0] != 2 || c.BootID[0] != 3 || len(c.Stages) != 2 {
		t.Errorf("report: %+v %v", c, err)
	}
	if _, err := report.Verify(identity, make([]byte, 32), out[0].(readiness.Report).COSE); !errors.Is(err, report.ErrNonce) {
		t.Errorf("report for another nonce: %v", err)
	}

	if out := a.answer("POWEROFF"); stops != 1 || len(out) != 1 || out[0].String() != "BYE" {
		t.Errorf("power off: %d %v", stops, out)
	}
	for _, line := range []string{"", "CHALLENGE 00", "EXEC /bin/sh", "PING", "HELLO 1 guestagent x"} {
		if out := a.answer(line); out != nil {
			t.Errorf("%q is answered: %v", line, out)
		}
	}
	if stops != 1 {
		t.Errorf("%d power-offs", stops)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		start := time.Now()
		for range 3*perSecond + 1 {
			l.wait(time.Now, time.Sleep)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("%d lines in %v", 3*perSecond+1, took)
		}
	})
}
