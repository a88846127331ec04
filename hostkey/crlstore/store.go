// Package crlstore gets CRLs from distribution points and keeps them in a
// cache folder.
//
// A kept CRL is used without asking the network while it is younger than
// [MaxAge] and its nextUpdate has not come. After MaxAge its distribution point
// is asked again, so that a revocation shows within a day; when that fails the
// kept one serves until its nextUpdate. Only CRLs that the caller found useful
// (signed by the right key, in time) are kept, so a garbled answer does not
// stay. Files appear complete or not at all and are never changed, so any
// number of processes may share a folder; the last one wins.
package crlstore

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/secexec/secexec/hostkey"
)

// Timeout bounds one download, from connecting to the last byte.
const Timeout = 3 * time.Second

// MaxAge is how long a kept CRL spares the network.
const MaxAge = 24 * time.Hour

// Store is a [hostkey.Fetcher]. Its methods may be called concurrently.
type Store struct {
	Dir     string           // cache folder, made when needed; "" keeps nothing
	Client  *http.Client     // nil: proxies as the environment says
	Timeout time.Duration    // of one download; 0: Timeout
	Now     func() time.Time // nil: time.Now
}

var _ hostkey.Fetcher = (*Store)(nil)

// DefaultDir is the user's cache folder for CRLs, under XDG_CACHE_HOME or
// ~/.cache; "" where there is none.
func DefaultDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "secexec", "crl")
}

// Fetch implements [hostkey.Fetcher].
func (s *Store) Fetch(ctx context.Context, url string, useful func(*x509.RevocationList) bool) ([]hostkey.CRL, error) {
	kept, age := s.load(url, useful)
	if kept != nil && age < MaxAge {
		return kept, nil
	}
	data, crls, err := s.download(ctx, url)
	if err != nil {
		if kept != nil {
			return kept, nil
		}
		return nil, err
	}
	if anyUseful(crls, useful) {
		s.keep(url, data)
	} else if kept != nil {
		return append(crls, kept...), nil
	}
	return crls, nil
}

func (s *Store) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// path names a URL's file: it is not for people, so the hash alone will do.
func (s *Store) path(url string) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%x.crl", sha256.Sum256([]byte(url))))
}

// load returns the kept CRLs of a URL and their age, or nil when there are none
// that are useful. A file that can't be used is as good as none.
func (s *Store) load(url string, useful func(*x509.RevocationList) bool) ([]hostkey.CRL, time.Duration) {
	if s.Dir == "" {
		return nil, 0
	}
	f, err := os.Open(s.path(url))
	if err != nil {
		return nil, 0
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > hostkey.MaxFileSize {
		return nil, 0
	}
	data, err := io.ReadAll(io.LimitReader(f, hostkey.MaxFileSize))
	if err != nil {
		return nil, 0
	}
	_, crls, err := hostkey.ParseFile(url, data)
	if err != nil || !anyUseful(crls, useful) {
		return nil, 0
	}
	age := s.now().Sub(info.ModTime())
	if age < -time.Minute { // written by a clock that was ahead
		age = MaxAge
	}
	return crls, age
}

// keep puts a download into the cache. A cache that can't be written only
// costs the next download.
func (s *Store) keep(url string, data []byte) {
	if s.Dir == "" || os.MkdirAll(s.Dir, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(s.Dir, ".new-*")
	if err != nil {
		return
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path(url))
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

func anyUseful(crls []hostkey.CRL, useful func(*x509.RevocationList) bool) bool {
	for _, crl := range crls {
		if useful(crl.RevocationList) {
			return true
		}
	}
	return false
}
