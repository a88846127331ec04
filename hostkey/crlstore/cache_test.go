package crlstore_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/crlstore"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// files returns a cache's files, and fails the test over half-written ones.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".crl") {
			t.Errorf("left over: %s", e.Name())
		}
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}

func TestCache(t *testing.T) {
	t.Parallel()
	// The signing key's CRL is good for two days, the others for long.
	fail := false
	o := serve(t, nil, func(w *ht.World, _ string) {
		w.CRL = map[ht.Level]func(*ht.List){ht.Signing: func(l *ht.List) { l.NextUpdate = w.Now.Add(48 * time.Hour) }}
	})
	inner := o.Config.Handler
	o.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail {
			o.hits.Add(1)
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		inner.ServeHTTP(w, r)
	})
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	at := o.now
	s := &crlstore.Store{Dir: dir, Now: func() time.Time { return at }}
	step := func(what string, hits int32, want error) {
		t.Helper()
		o.hits.Store(0)
		if _, err := o.verify(t, s); !errors.Is(err, want) || o.hits.Load() != hits {
			t.Errorf("%s: %d hits, wants %d: %v, wants %v", what, o.hits.Load(), hits, err, want)
		}
	}
	step("first time", 3, nil)
	if n := len(files(t, dir)); n != 3 {
		t.Errorf("%d files kept", n)
	}
	step("second time", 0, nil)
	fail = true
	step("server down, all kept", 0, nil)
	at = o.now.Add(crlstore.MaxAge + time.Minute)
	step("server down, a day later: asked, and the kept ones serve", 3, nil)
	at = o.now.Add(49 * time.Hour)
	step("server down, one kept CRL expired", 3, hostkey.ErrNoCRL)
	fail = false
	step("server up, its CRL is the expired one still", 3, hostkey.ErrCRLExpired)
	at = o.now

	for _, path := range files(t, dir) {
		if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	step("kept files are garbage", 3, nil)
	for i, path := range files(t, dir) {
		if i == 0 {
			os.Remove(path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.Truncate(path, hostkey.MaxFileSize+1); err != nil {
			t.Fatal(err)
		}
	}
	step("kept files are a folder and huge", 3, nil)

	s.Dir = filepath.Join(dir, "file")
	if err := os.WriteFile(s.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	step("the cache is a file", 3, nil)
	s.Dir = ""
	step("no cache", 3, nil)
}

// A CRL by another key, or one that has expired, is not kept.
func TestUselessIsNotKept(t *testing.T) {
	t.Parallel()
	o := serve(t, nil, func(w *ht.World, _ string) {
		w.CRL = map[ht.Level]func(*ht.List){ht.Signing: func(l *ht.List) { l.NextUpdate = w.Now.Add(-time.Minute) }}
	})
	dir := t.TempDir()
	if _, err := o.verify(t, &crlstore.Store{Dir: dir}); !errors.Is(err, hostkey.ErrCRLExpired) {
		t.Error(err)
	}
	if n := len(files(t, dir)); n != 2 {
		t.Errorf("%d files kept", n)
	}
}

// Many at once share a cache, and none sees half a file.
func TestShared(t *testing.T) {
	t.Parallel()
	o := serve(t, nil, nil)
	dir := t.TempDir()
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			s := &crlstore.Store{Dir: dir}
			for range 3 {
				if _, err := o.verify(t, s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := len(files(t, dir)); n != 3 {
		t.Errorf("%d files kept", n)
	}
}
