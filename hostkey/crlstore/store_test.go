package crlstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/crlstore"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// online is a world whose certificates name distribution points of one server.
type online struct {
	*httptest.Server
	made *ht.Made
	now  time.Time
	hits atomic.Int32
}

// serve starts a server that answers for each issuer's CRL, as "/LEVEL", or
// otherwise as the test says.
func serve(t *testing.T, other map[ht.Level]http.HandlerFunc, change func(*ht.World, string)) *online {
	t.Helper()
	o := &online{now: time.Now()}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.hits.Add(1)
		for l, der := range o.made.CRLs {
			if r.URL.Path != fmt.Sprintf("/%d", l) {
				continue
			}
			if h := other[l]; h != nil {
				h(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/pkix-crl")
			w.Write(der)
			return
		}
		if r.URL.Path == "/pem" {
			w.Header().Set("Content-Type", "text/html")
			w.Write(ht.CRLPEM(o.made.CRLs[ht.Signing]))
			return
		}
		if to, ok := strings.CutPrefix(r.URL.Path, "/moved"); ok {
			http.Redirect(w, r, to, http.StatusMovedPermanently)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(o.Close)
	points := func(l ht.Level) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.CRLDistributionPoints = []string{fmt.Sprintf("%s/%d", o.URL, l)} }
	}
	w := ht.World{Now: o.now, Cert: map[ht.Level]func(*x509.Certificate){
		ht.Inter: points(ht.Root), ht.Signing: points(ht.Inter), ht.Host: points(ht.Signing),
	}}
	if change != nil {
		change(&w, o.URL)
	}
	var err error
	if o.made, err = w.Make(); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *online) verify(t *testing.T, s *crlstore.Store, given ...ht.Level) (*hostkey.Report, error) {
	t.Helper()
	doc, _, err := hostkey.Parse(o.made.Certs[ht.Host].Raw)
	if err != nil {
		t.Fatal(err)
	}
	p := hostkey.Policy{Now: o.now, Fetch: s, Roots: []hostkey.Cert{{Certificate: o.made.Certs[ht.Root]}}}
	if s.Now != nil {
		p.Now = s.Now()
	}
	for _, l := range []ht.Level{ht.Inter, ht.Signing} {
		p.Certs = append(p.Certs, hostkey.Cert{Certificate: o.made.Certs[l]})
	}
	for _, l := range given {
		crl, err := x509.ParseRevocationList(o.made.CRLs[l])
		if err != nil {
			t.Fatal(err)
		}
		p.CRLs = append(p.CRLs, hostkey.CRL{RevocationList: crl, From: "given"})
	}
	return hostkey.Verify(context.Background(), []*hostkey.Document{doc}, p)
}

// Whatever a distribution point does, the reason tells.
func TestOnline(t *testing.T) {
	t.Parallel()
	good, err := ht.World{Now: time.Now()}.Make()
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	slow := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	drip := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}
	huge := func(w http.ResponseWriter, _ *http.Request) {
		for range hostkey.MaxFileSize>>20 + 1 {
			w.Write(make([]byte, 1<<20))
		}
	}
	hugeSaid := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "99999999999")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
	}
	shortened := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.Write([]byte("short"))
	}
	loop := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }
	toFile := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	}
	cases := []struct {
		name   string
		answer http.HandlerFunc // for the signing key's CRL
		change func(*ht.World, string)
		given  []ht.Level
		want   error // the verdict
		cause  error // what the store says
	}{
		{name: "all answer"},
		{name: "revoked", change: func(w *ht.World, _ string) { w.Revoked = []ht.Level{ht.Host} }, want: hostkey.ErrRevoked},
		{name: "not found", answer: http.NotFound, want: hostkey.ErrNoCRL, cause: crlstore.ErrStatus},
		{name: "server fails", answer: answer(500, "text/plain", "oops"), want: hostkey.ErrNoCRL, cause: crlstore.ErrStatus},
		{name: "nothing", answer: answer(200, "application/pkix-crl", ""), want: hostkey.ErrNoCRL, cause: crlstore.ErrNotCRL},
		{name: "a web page", answer: answer(200, "text/html", "<html>sign in"), want: hostkey.ErrNoCRL, cause: crlstore.ErrNotCRL},
		{name: "a certificate", answer: answer(200, "application/pkix-crl", string(good.Certs[ht.Root].Raw)), want: hostkey.ErrNoCRL, cause: crlstore.ErrNotCRL},
		{name: "PEM, another type", answer: nil, change: func(w *ht.World, url string) { point(w, ht.Host, url+"/pem") }},
		{name: "slow", answer: slow, want: hostkey.ErrNoCRL, cause: crlstore.ErrTimeout},
		{name: "drips", answer: drip, want: hostkey.ErrNoCRL, cause: crlstore.ErrTimeout},
		{name: "huge", answer: huge, want: hostkey.ErrNoCRL, cause: crlstore.ErrTooLarge},
		{name: "says it is huge", answer: hugeSaid, want: hostkey.ErrNoCRL, cause: crlstore.ErrTooLarge},
		{name: "hangs up", answer: hangUp, want: hostkey.ErrNoCRL, cause: crlstore.ErrUnreachable},
		{name: "is cut short", answer: shortened, want: hostkey.ErrNoCRL, cause: crlstore.ErrUnreachable},
		{name: "redirects for ever", answer: loop, want: hostkey.ErrNoCRL, cause: crlstore.ErrUnreachable},
		{name: "redirects to a file", answer: toFile, want: hostkey.ErrNoCRL, cause: crlstore.ErrUnreachable},
		{name: "redirects", change: func(w *ht.World, url string) { point(w, ht.Host, fmt.Sprintf("%s/moved/%d", url, ht.Signing)) }},
		{name: "nobody listens", change: func(w *ht.World, _ string) { point(w, ht.Host, "http://"+deadAddress()+"/crl") }, want: hostkey.ErrNoCRL, cause: crlstore.ErrUnreachable},
		{name: "nobody listens, but the CRL is given", change: func(w *ht.World, _ string) { point(w, ht.Host, "http://"+deadAddress()+"/crl") }, given: []ht.Level{ht.Signing}},
		{name: "first of two is dead", change: func(w *ht.World, url string) {
			point(w, ht.Host, "http://"+deadAddress()+"/crl", fmt.Sprintf("%s/%d", url, ht.Signing))
		}},
		{name: "ldap", change: func(w *ht.World, _ string) { point(w, ht.Host, "ldap://ldap.example/cn=crl") }, want: hostkey.ErrNoCRL, cause: crlstore.ErrScheme},
		{name: "a file", change: func(w *ht.World, _ string) { point(w, ht.Host, "file:///etc/passwd") }, want: hostkey.ErrNoCRL, cause: crlstore.ErrScheme},
		{name: "no address", change: func(w *ht.World, _ string) { point(w, ht.Host, "http://") }, want: hostkey.ErrNoCRL, cause: crlstore.ErrScheme},
		{name: "no distribution point", change: func(w *ht.World, _ string) { point(w, ht.Host) }, want: hostkey.ErrNoCRL},
		{name: "another issuer's CRL", change: func(w *ht.World, url string) { point(w, ht.Host, fmt.Sprintf("%s/%d", url, ht.Root)) }, want: hostkey.ErrNoCRL},
		{name: "expired CRL", change: func(w *ht.World, _ string) {
			w.CRL = map[ht.Level]func(*ht.List){ht.Signing: func(l *ht.List) { l.NextUpdate = w.Now.Add(-time.Minute) }}
		}, want: hostkey.ErrCRLExpired},
		{name: "forged CRL", change: func(w *ht.World, _ string) {
			w.CRLKey = map[ht.Level]*ecdsa.PrivateKey{ht.Signing: ht.ECKey(elliptic.P256(), 77)}
		}, want: hostkey.ErrCRLSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := serve(t, map[ht.Level]http.HandlerFunc{ht.Signing: c.answer}, c.change)
			s := &crlstore.Store{Timeout: 20 * time.Second, Dir: filepath.Join(t.TempDir(), "cache")}
			if c.cause == crlstore.ErrTimeout {
				s.Timeout = 300 * time.Millisecond
			}
			_, err := o.verify(t, s, c.given...)
			if !errors.Is(err, c.want) || c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("got %v, wants %v, %v", err, c.want, c.cause)
			}
		})
	}
}

// point sets the distribution points of a level's certificate.
func point(w *ht.World, l ht.Level, urls ...string) {
	w.Cert[l] = func(c *x509.Certificate) { c.CRLDistributionPoints = urls }
}

// deadAddress is one where nobody listens.
func deadAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The points are asked side by side: three that never answer take as long as one.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	slow := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	o := serve(t, map[ht.Level]http.HandlerFunc{ht.Root: slow, ht.Inter: slow, ht.Signing: slow}, nil)
	begin := time.Now()
	_, err := o.verify(t, &crlstore.Store{Timeout: time.Second})
	if !errors.Is(err, crlstore.ErrTimeout) || o.hits.Load() != 3 {
		t.Errorf("%d hits: %v", o.hits.Load(), err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// Addresses in certificates that nobody vouches for are not visited.
func TestNothingFetchedForForgeries(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ht.World, string){
		"chain": func(w *ht.World, _ string) {
			w.Signer = map[ht.Level]*ecdsa.PrivateKey{ht.Inter: ht.ECKey(elliptic.P256(), 78)}
		},
		"document": func(w *ht.World, url string) {
			w.Signer = map[ht.Level]*ecdsa.PrivateKey{ht.Host: ht.ECKey(elliptic.P256(), 78)}
			point(w, ht.Host, url+"/trap")
			for _, l := range []ht.Level{ht.Inter, ht.Signing} {
				point(w, l)
			}
		},
	} {
		o := serve(t, nil, change)
		if _, err := o.verify(t, &crlstore.Store{}, ht.Root, ht.Inter, ht.Signing); err == nil || o.hits.Load() != 0 {
			t.Errorf("%s: %d hits: %v", name, o.hits.Load(), err)
		}
	}
}

// An interrupted verification gives no verdict.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	o := serve(t, map[ht.Level]http.HandlerFunc{ht.Root: func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}}, nil)
	doc, _, err := hostkey.Parse(o.made.Certs[ht.Host].Raw)
	if err != nil {
		t.Fatal(err)
	}
	report, err := hostkey.Verify(ctx, []*hostkey.Document{doc}, hostkey.Policy{
		Now: o.now, Fetch: &crlstore.Store{}, Roots: []hostkey.Cert{{Certificate: o.made.Certs[ht.Root]}},
		Certs: []hostkey.Cert{{Certificate: o.made.Certs[ht.Signing]}, {Certificate: o.made.Certs[ht.Inter]}},
	})
	if report != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", report, err)
	}
}
