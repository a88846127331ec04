package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
)

// signer is a guest that answers with what it was made for.
type signer struct {
	key    ed25519.PrivateKey
	claims report.Claims
	nonce  []byte // instead of the asker's
	err    error
}

func (s *signer) Challenge(_ context.Context, _ string, nonce []byte) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	c := s.claims
	c.Nonce = nonce
	if s.nonce != nil {
		c.Nonce = s.nonce
	}
	return report.Sign(s.key, c)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	key := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(b)), ed25519.SeedSize)))
	}
	public := func(k ed25519.PrivateKey) string { return hex.EncodeToString(k.Public().(ed25519.PublicKey)) }
	id := make([]byte, readiness.IDSize)
	for name, c := range map[string]struct {
		annotations map[string]string
		bundle      ed25519.PrivateKey
		change      func(*signer)
		reason      string
		words       string
	}{
		"by the annotation": {annotations: map[string]string{kubernetes.AnnotationIdentity: public(key('a'))}, bundle: key('b'), reason: reasonVerified, words: "annotation names"},
		"by the bundle":     {bundle: key('a'), reason: reasonVerified, words: "bundle names"},
		// The provider can't put a key of its own before the owner's.
		"another key than the annotation's": {annotations: map[string]string{kubernetes.AnnotationIdentity: public(key('b'))}, bundle: key('a'), reason: reasonNotVerified, words: "not signed by"},
		"no key":                            {annotations: map[string]string{kubernetes.AnnotationIdentity: "00"}, bundle: key('a'), reason: reasonBadReference, words: "not an Ed25519"},
		"the image":                         {annotations: map[string]string{kubernetes.AnnotationImageID: hex.EncodeToString(id)}, bundle: key('a'), reason: reasonVerified, words: "signed by image 00"},
		"another image":                     {annotations: map[string]string{kubernetes.AnnotationImageID: strings.Repeat("1", 32)}, bundle: key('a'), reason: reasonNotVerified, words: "wants"},
		"an old report":                     {bundle: key('a'), change: func(s *signer) { s.nonce = make([]byte, 32) }, reason: reasonNotVerified, words: "another nonce"},
		"no report":                         {bundle: key('a'), change: func(s *signer) { s.err = errors.New("no answer in time") }, reason: reasonNoReport, words: "no answer in time"},
		"not ready":                         {bundle: key('a'), change: func(s *signer) { s.claims.Stages = nil }, reason: reasonNotReady, words: "does not say that it is ready"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &signer{key: key('a'), claims: report.Claims{
				ImageID: id, BootID: id, RootID: id, BootKey: make([]byte, 32), RootMode: "crypt", ReadyAt: "notify", Profile: report.Profile,
				Stages: []report.Stage{{Name: readiness.StageReady}},
			}}
			if c.change != nil {
				c.change(s)
			}
			got := verify(t.Context(), s, newPod("web", "", c.annotations), &hostagentv1.Guest{Name: guestName, Identity: public(c.bundle)})
			if got.Reason != c.reason || !strings.Contains(got.Message, c.words) || (got.Status == "True") != (c.reason == reasonVerified) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestGuestOf(t *testing.T) {
	t.Parallel()
	guests := []*hostagentv1.Guest{{Name: "web"}, {Name: "c-" + strings.Repeat("0", 40) + "-aa"}, {Name: guestName}}
	if g := guestOf(guestID, guests); g == nil || g.Name != guestName {
		t.Errorf("%v", g)
	}
	for _, id := range []string{"", "0123", strings.Repeat("f", 64), guestID[:39]} {
		if g := guestOf(id, guests); g != nil {
			t.Errorf("%q: %v", id, g)
		}
	}
}

func TestConditionChangesWithItsWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := newPod("web", "", nil)
	first, another := p.update(condition{Status: "False", Reason: "A", Message: strings.Repeat("ä", maxMessage)}, now)
	if !another || first.Type != kubernetes.ConditionVerified || len(first.Message) > maxMessage || first.LastTransitionTime != "2026-01-02T03:04:05Z" {
		t.Errorf("%v %+v", another, first)
	}
	p.Status.Conditions = []condition{{Type: "Ready"}, first}
	if _, another := p.update(first, now.Add(time.Hour)); another {
		t.Error("the same is another one")
	}
	c := first
	c.Reason = "B"
	if c, another := p.update(c, now.Add(time.Hour)); !another || c.LastTransitionTime != first.LastTransitionTime {
		t.Errorf("another reason: %v %+v", another, c)
	}
	c.Status = "True"
	if c, another := p.update(c, now.Add(time.Hour)); !another || c.LastTransitionTime != "2026-01-02T04:04:05Z" {
		t.Errorf("another status: %v %+v", another, c)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	guests := []*hostagentv1.Guest{{Name: "a", State: "ready"}, {Name: "b", State: "waiting"}, {Name: "c", State: "failed"}, {Name: guestName, State: "ready"}}
	for _, c := range []struct {
		places Places
		memory uint64
		guests []*hostagentv1.Guest
		want   int
	}{
		{Places{MemoryMiB: 1024}, 16 << 10, nil, 16},
		{Places{MemoryMiB: 1024}, 16<<10 - 1, guests, 13},
		{Places{Count: 3, MemoryMiB: 1024}, 1 << 30, guests, 1},
		{Places{Count: 1}, 0, guests, 0},
		{Places{MemoryMiB: 1}, 1 << 40, nil, maxPlaces},
		{Places{}, 0, nil, 0},
	} {
		if got := c.places.of(&hostagentv1.NodeInfoResponse{MemoryMib: c.memory}, c.guests); got != c.want {
			t.Errorf("%+v: %d, wants %d", c, got, c.want)
		}
	}
}

// Whatever an API server answers becomes a condition of ours or nothing.
func FuzzPod(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"metadata":{"annotations":{"dev.secexec.identity":"zz"}},"spec":{"readinessGates":[{"conditionType":"secexec.dev/verified"}]},"status":{"phase":"Running","containerStatuses":[{"containerID":"containerd://` + guestID + `"}],"conditions":[{"type":"secexec.dev/verified","status":"True"}]}}`))
	f.Add([]byte(`{"status":{"containerStatuses":[{"containerID":"containerd://"},{}]}}`))
	f.Add([]byte(`{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},"status":{"containerStatuses":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var p pod
		if json.Unmarshal(text, &p) != nil {
			return
		}
		_ = p.gated()
		g := guestOf(p.container(), []*hostagentv1.Guest{{Name: guestName, State: "ready"}})
		c := judge(&p, g)
		if c == nil {
			got := verify(t.Context(), &signer{err: errors.New("no")}, &p, g)
			c = &got
		}
		done, _ := p.update(*c, time.Unix(0, 0))
		if done.Type != kubernetes.ConditionVerified || done.Status != "False" || done.Reason == "" || len(done.Message) > maxMessage {
			t.Errorf("%+v", done)
		}
		p.Status.Conditions = []condition{done}
		if _, another := p.update(*c, time.Unix(1, 0)); another {
			t.Error("it changes from one look to the next")
		}
	})
}
