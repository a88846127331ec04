package hostkey_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

func allCases(now time.Time) []testCase {
	cases := append(casesPerLevel(now), casesOfChain(now)...)
	return append(cases, casesOfFiles(now)...)
}

func (c testCase) given(t testing.TB, now time.Time) *given {
	t.Helper()
	c.w.Now = now
	g := giveAll(must(c.w.Make())(t))
	if c.give != nil {
		c.give(g)
	}
	return g
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cases := allCases(now)
	if len(cases) < 120 {
		t.Errorf("%d cases", len(cases))
	}
	seen := make(map[string]bool)
	for _, c := range cases {
		if seen[c.name] {
			t.Errorf("two cases %q", c.name)
		}
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			report, err := c.given(t, now).verify(now)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, wants %v", err, c.want)
			}
			if report != nil && report.Accepted != (c.want == nil) {
				t.Error("report and error differ")
			}
			var refusal *hostkey.Refusal
			if !errors.As(err, &refusal) {
				return
			}
			if c.role != "" && refusal.Role != c.role {
				t.Errorf("it is about the %s, wants %s: %v", refusal.Role, c.role, err)
			}
			text := err.Error()
			if refusal.File != "" && !strings.Contains(text, refusal.File) || !strings.Contains(text, refusal.Subject) || !strings.Contains(text, refusal.Reason.Remedy) {
				t.Errorf("no file, subject or remedy: %s", text)
			}
			failed := 0
			for _, check := range append(report.Chain, report.Documents[0].Checks...) {
				if check.Result == hostkey.Failed {
					failed++
				}
			}
			if failed == 0 {
				t.Error("no failed check in the report")
			}
		})
	}
	// Each reason is some case's.
	for _, r := range hostkey.Reasons {
		used := false
		for _, c := range cases {
			used = used || c.want == error(r)
		}
		if !used {
			t.Errorf("no case for %q", r.Code)
		}
	}
}

// TestReference compares our verdicts with those of IBM's pvverify.
func TestReference(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	pvverify := os.Getenv("SECEXEC_PVVERIFY")
	if pvverify == "" {
		var err error
		if pvverify, err = exec.LookPath("pvverify"); err != nil {
			t.Skip("pvverify is not installed (s390-tools)")
		}
	}
	now := time.Now()
	top := t.TempDir()
	for i, c := range allCases(now) {
		t.Run(c.name, func(t *testing.T) {
			g := c.given(t, now)
			dir := filepath.Join(top, strconv.Itoa(i)) // not t.TempDir: pvverify takes names apart at commas
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			n := 0
			file := func(data []byte) string {
				n++
				path := filepath.Join(dir, strconv.Itoa(n))
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			args := []string{"--offline", "-k", file(g.host), "--root-ca", file(g.roots)}
			for _, data := range g.certs {
				args = append(args, "--cert", file(data))
			}
			for _, data := range g.crls {
				args = append(args, "--crl", file(data))
			}
			out, err := exec.Command(pvverify, args...).CombinedOutput()
			out, _, _ = bytes.Cut(out, []byte("Stack backtrace"))
			_, ours := g.verify(now)
			if same := (err == nil) == (ours == nil); same != (c.differs == "") {
				t.Errorf("pvverify: %v, ours: %v, differs: %q\n%s", err, ours, c.differs, out)
			}
		})
	}
}

// What several documents share is checked once, and each gets its verdict.
func TestSeveralDocuments(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := testCase{}.given(t, now)
	other := testCase{w: onCert(ht.Host, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })}.given(t, now)
	var docs []*hostkey.Document
	for i, data := range [][]byte{g.host, other.host, g.host} {
		doc, _, err := hostkey.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		doc.File = strconv.Itoa(i)
		docs = append(docs, doc)
	}
	p := hostkey.Policy{Now: now}
	for _, l := range []ht.Level{ht.Root, ht.Inter, ht.Signing} {
		crl := must(x509.ParseRevocationList(g.made.CRLs[l]))(t)
		p.CRLs = append(p.CRLs, hostkey.CRL{RevocationList: crl})
		p.Certs = append(p.Certs, hostkey.Cert{Certificate: g.made.Certs[l]})
	}
	p.Roots = p.Certs[:1]
	report, err := hostkey.Verify(context.Background(), docs, p)
	var refusal *hostkey.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != hostkey.ErrExpired || refusal.File != "1" {
		t.Errorf("got %v", err)
	}
	for i, d := range report.Documents {
		if d.Accepted != (i != 1) {
			t.Errorf("document %d: %v", i, d.Err)
		}
	}
}

// The page for users names each reason and each difference from pvverify, and
// no reason that there is not.
func TestDocumented(t *testing.T) {
	t.Parallel()
	page := string(must(os.ReadFile("../docs/host-keys.md"))(t))
	known := make(map[string]bool)
	for _, r := range hostkey.Reasons {
		known[r.Code] = true
		if !strings.Contains(page, "\n| `"+r.Code+"` |") {
			t.Errorf("docs/host-keys.md lacks %q", r.Code)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("docs/host-keys.md has %q, the code does not", m[1])
		}
	}
	cases, agree := allCases(time.Now()), 0
	for _, c := range cases {
		if c.differs == "" {
			agree++
		} else if !strings.Contains(page, "\n| "+c.differs+" |") {
			t.Errorf("docs/host-keys.md lacks the difference %q", c.differs)
		}
	}
	if count := fmt.Sprintf("the %d rows of the test table: %d agree", len(cases), agree); !strings.Contains(page, count) {
		t.Errorf("docs/host-keys.md does not say %q", count)
	}
}
