package hostkey

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoSystemRoots says that the system has no root CAs.
var ErrNoSystemRoots = errors.New("no root CAs on this system: install its CA certificates (Debian: ca-certificates) or give --root-ca")

// Where distributions keep root CAs in one file, Debian's and SUSE's first.
// crypto/x509 looks there too but does not give its certificates out.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// SystemRoots reads those of the system's root CAs that may have issued one of
// the certificates. There are over a hundred roots, and parsing all of them
// takes longer than the rest of a verification. The environment variables
// SSL_CERT_FILE and SSL_CERT_DIR name other ones, as for OpenSSL. Files and
// certificates that can't be read are passed over.
func SystemRoots(certs []Cert) ([]Cert, error) {
	s := rootSearch{}
	for _, c := range certs {
		s.issuers = append(s.issuers, c.RawIssuer)
	}
	file, dirs := os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR")
	if file == "" && dirs == "" {
		for _, file := range rootFiles {
			if s.read(file); s.seen > 0 {
				break // the other names are other distributions'
			}
		}
	}
	s.read(file)
	for _, dir := range filepath.SplitList(dirs) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			s.read(filepath.Join(dir, e.Name()))
		}
	}
	if s.seen == 0 {
		return nil, ErrNoSystemRoots
	}
	return s.roots, nil
}

// rootSearch looks for the certificates of issuers.
type rootSearch struct {
	issuers [][]byte // DER names
	roots   []Cert
	seen    int // certificates, wanted or not
}

func (s *rootSearch) read(file string) {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > MaxFileSize {
		return
	}
	rest, err := os.ReadFile(file)
	for err == nil {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		s.seen++
		if !slices.ContainsFunc(s.issuers, func(name []byte) bool { return bytes.Contains(block.Bytes, name) }) {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			s.roots = append(s.roots, Cert{cert, file})
		}
	}
}
