package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// The command downloads CRLs, keeps them under XDG_CACHE_HOME, and does without
// the network from then on; with --offline it does neither.
func TestHostkeyVerifyOnline(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	var made *ht.Made
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		level, _ := strconv.Atoi(strings.Trim(r.URL.Path, "/"))
		w.Write(made.CRLs[ht.Level(level)])
	}))
	defer server.Close()
	points := func(l ht.Level) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.CRLDistributionPoints = []string{server.URL + "/" + strconv.Itoa(int(l))} }
	}
	var err error
	if made, err = (ht.World{Now: time.Now(), Cert: map[ht.Level]func(*x509.Certificate){
		ht.Inter: points(ht.Root), ht.Signing: points(ht.Inter), ht.Host: points(ht.Signing),
	}}).Make(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, l ht.Level) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certs[l].Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"hostkey", "verify", "--json", file("host", ht.Host), "-C", file("signing", ht.Signing), "-C", file("inter", ht.Inter), "--root-ca", file("root", ht.Root)}
	verify := func(more ...string) (r hostkey.Report, err error) {
		cmd := newRoot()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append(args[:len(args):len(args)], more...))
		err = cmd.ExecuteContext(context.Background())
		if jerr := json.Unmarshal(out.Bytes(), &r); jerr != nil {
			t.Fatalf("%v: %s", jerr, out.Bytes())
		}
		return r, err
	}
	if r, err := verify("--offline"); err == nil || r.Accepted {
		t.Error("offline without CRLs: accepted")
	}
	if r, err := verify(); err != nil || !r.Accepted {
		t.Errorf("online: %v", err)
	}
	if kept, _ := filepath.Glob(filepath.Join(cache, "secexec", "crl", "*.crl")); len(kept) != 3 {
		t.Errorf("kept %v", kept)
	}
	server.Close()
	r, err := verify()
	if err != nil || !r.Accepted {
		t.Errorf("from the cache: %v", err)
	}
	for _, c := range append(r.Chain, r.Documents[0].Checks...) {
		if c.Result != hostkey.OK || c.What == "" || c.Subject == "" || c.Detail == "" {
			t.Errorf("check: %+v", c)
		}
	}
}
