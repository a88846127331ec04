package hostkey

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
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

// SystemRoots reads the system's root CAs. The environment variables
// SSL_CERT_FILE and SSL_CERT_DIR name others, as for OpenSSL. Files and
// certificates that can't be read are passed over.
func SystemRoots() ([]Cert, error) {
	files, dirs := os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR")
	if files == "" && dirs == "" {
		for _, file := range rootFiles {
			if roots := readRoots(file); len(roots) > 0 {
				return roots, nil
			}
		}
		return nil, ErrNoSystemRoots
	}
	roots := readRoots(files)
	for _, dir := range filepath.SplitList(dirs) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			roots = append(roots, readRoots(filepath.Join(dir, e.Name()))...)
		}
	}
	if len(roots) == 0 {
		return nil, ErrNoSystemRoots
	}
	return roots, nil
}

func readRoots(file string) (roots []Cert) {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > MaxFileSize {
		return nil
	}
	rest, err := os.ReadFile(file)
	for err == nil {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			roots = append(roots, Cert{cert, file})
		}
	}
	return roots
}
