// Package hostkeytest makes a PKI of the shape of IBM's, with host keys whose
// private parts are known: for tests, and for emulated hosts
// (secexec emulate init).
package hostkeytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/secexec/secexec/outfile"
)

// PKI is a root CA, an intermediate CA and a signing certificate in IBM's
// place, each with its private key.
type PKI struct {
	Root, Inter, Signing Entity
}

// Entity is a certificate and its private key.
type Entity struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Validity of what New makes, around the time of making.
const (
	Before = time.Hour
	After  = 10 * 365 * 24 * time.Hour
)

// SigningName is the subject that marks a signing certificate.
func SigningName() pkix.Name {
	const org = "International Business Machines Corporation"
	return pkix.Name{
		Country: []string{"US"}, Province: []string{"New York"}, Locality: []string{"Poughkeepsie"},
		Organization: []string{org}, OrganizationalUnit: []string{"secexec Test Host Key Signing Service"}, CommonName: org,
	}
}

// signingKeyID names the signing key in documents: the library gives a key
// identifier of its own to CAs only.
var signingKeyID = []byte("secexec test signing")

// New makes a PKI. Its keys are on P-256, which every machine is fast with;
// IBM's are RSA.
func New() (*PKI, error) {
	p := &PKI{}
	root, err := Issue(nil, x509.Certificate{
		Subject: pkix.Name{CommonName: "secexec test root CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, elliptic.P256())
	if err != nil {
		return nil, err
	}
	p.Root = *root
	inter, err := Issue(root, x509.Certificate{
		Subject: pkix.Name{CommonName: "secexec test intermediate CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, elliptic.P256())
	if err != nil {
		return nil, err
	}
	p.Inter = *inter
	// As IBM's: no CA, no key usage for signing certificates.
	signing, err := Issue(inter, x509.Certificate{
		Subject: SigningName(), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, SubjectKeyId: signingKeyID,
	}, elliptic.P256())
	if err != nil {
		return nil, err
	}
	p.Signing = *signing
	return p, nil
}

// Host makes a host key and its document.
func (p *PKI) Host(name string) (*Entity, error) {
	return Issue(&p.Signing, x509.Certificate{
		Subject: pkix.Name{Organization: []string{"secexec emulated host"}, CommonName: name},
	}, elliptic.P521())
}

// Issue makes a key on a curve and its certificate, signed by an issuer or by
// itself. Dates and serial number are filled in where the template has none.
func Issue(issuer *Entity, template x509.Certificate, curve elliptic.Curve) (*Entity, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if template.SerialNumber == nil {
		if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
			return nil, fmt.Errorf("make serial number: %w", err)
		}
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-Before)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(After)
	}
	if issuer == nil {
		issuer = &Entity{Cert: &template, Key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, issuer.Cert, &key.PublicKey, issuer.Key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return &Entity{cert, key}, nil
}

// withCRL returns an issuer's certificate and an empty CRL of its, in PEM.
func (e *Entity) withCRL() ([]byte, error) {
	der, err := NewList(e.Cert, time.Now()).Sign(e.Key)
	if err != nil {
		return nil, err
	}
	return append(e.CertPEM(), CRLPEM(der)...), nil
}

// CertPEM returns the certificate in PEM.
func (e *Entity) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Cert.Raw})
}

// KeyPEM returns the private key in PEM, SEC 1.
func (e *Entity) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(e.Key)
	if err != nil {
		return nil, fmt.Errorf("write private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// WriteHost makes an emulated host's folder, complete or not at all:
//
//	host.key       private host key, PEM, mode 0600
//	host.crt       host key document
//	ca/signing.crt ca/inter-ca.crt ca/root-ca.crt   what verifies it, each with its CRL
func WriteHost(path, name string) (*Entity, error) {
	dir, err := outfile.CreateDir(path, 0o755)
	if err != nil {
		return nil, err
	}
	defer dir.Abort()
	pki, err := New()
	if err != nil {
		return nil, err
	}
	host, err := pki.Host(name)
	if err != nil {
		return nil, err
	}
	key, err := host.KeyPEM()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if err := dir.Mkdir("ca", 0o755); err != nil {
		return nil, err
	}
	if err := dir.WriteFile("host.crt", host.CertPEM(), 0o644); err != nil {
		return nil, err
	}
	for file, issuer := range map[string]*Entity{"ca/signing.crt": &pki.Signing, "ca/inter-ca.crt": &pki.Inter, "ca/root-ca.crt": &pki.Root} {
		data, err := issuer.withCRL()
		if err != nil {
			return nil, err
		}
		if err := dir.WriteFile(file, data, 0o644); err != nil {
			return nil, err
		}
	}
	if err := dir.WriteFile("host.key", key, 0o600); err != nil {
		return nil, err
	}
	return host, dir.Commit()
}
