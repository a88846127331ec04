package hostkeytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// Level is a place in a world's chain, from the root down.
type Level int

// Levels. Up to three intermediate CAs stand between Root and Signing.
const (
	Root Level = iota
	Inter
	Inter2
	Inter3
	Signing
	Host
)

// World describes a PKI for a test, with every deviation that a verifier has to
// notice. The zero World is good: root, one intermediate CA, signing
// certificate, host, and a CRL of each that issues. Keys are made once for all
// worlds, so making a world costs some signatures on P-256.
type World struct {
	Now     time.Time
	Inters  int                               // intermediate CAs: 0 means 1, -1 none
	Cert    map[Level]func(*x509.Certificate) // changes a certificate before it is signed
	Parent  map[Level]func(*x509.Certificate) // changes what the issuer's certificate passes on: name, key identifier
	Signer  map[Level]*ecdsa.PrivateKey       // signs a certificate in its issuer's place
	Key     map[Level]crypto.Signer           // a level's key; only Host's and Signing's may be other than ECDSA
	CRL     map[Level]func(*List)             // changes an issuer's CRL before it is signed
	CRLKey  map[Level]*ecdsa.PrivateKey       // signs an issuer's CRL in its place
	Revoked []Level                           // are in their issuer's CRL; the root in its own
}

// Made is a world's certificates and CRLs, by level: a CRL by its issuer's.
type Made struct {
	Certs map[Level]*x509.Certificate
	CRLs  map[Level][]byte // DER
	Keys  map[Level]crypto.Signer
}

// keys is the pool: making P-521 keys is slow where there is no assembly.
var keys struct {
	sync.Mutex
	ec   map[string]*ecdsa.PrivateKey
	weak *rsa.PrivateKey
}

// ECKey returns the pool's key of a curve and number, the same one each time.
func ECKey(curve elliptic.Curve, n int) *ecdsa.PrivateKey {
	keys.Lock()
	defer keys.Unlock()
	name := fmt.Sprintf("%s %d", curve.Params().Name, n)
	if keys.ec == nil {
		keys.ec = make(map[string]*ecdsa.PrivateKey)
	}
	if keys.ec[name] == nil {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys.ec[name] = key
	}
	return keys.ec[name]
}

// WeakKey returns the pool's RSA key of 1024 bits.
func WeakKey() *rsa.PrivateKey {
	keys.Lock()
	defer keys.Unlock()
	if keys.weak == nil {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			panic(err)
		}
		keys.weak = key
	}
	return keys.weak
}

// levels returns the levels that a world has, from the root down.
func (w World) levels() []Level {
	out := []Level{Root}
	n := w.Inters
	if n == 0 {
		n = 1
	}
	for i := range max(n, 0) {
		out = append(out, Inter+Level(i))
	}
	return append(out, Signing, Host)
}

// Above returns the level that issues another one: the root itself for Root.
func (w World) Above(l Level) Level {
	levels := w.levels()
	for i := range levels {
		if levels[i] == l {
			return levels[max(i-1, 0)]
		}
	}
	return Root
}

func (w World) key(l Level) crypto.Signer {
	if key := w.Key[l]; key != nil {
		return key
	}
	if l == Host {
		return ECKey(elliptic.P521(), 0)
	}
	return ECKey(elliptic.P256(), int(l))
}

func (w World) template(l Level) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + int64(l)), NotBefore: w.Now.Add(-Before), NotAfter: w.Now.Add(After),
		SubjectKeyId: []byte{0x5e, byte(l), 1, 2, 3, 4, 5, 6},
	}
	switch l {
	case Host:
		t.Subject = pkix.Name{Organization: []string{"secexec test host"}, CommonName: "host"}
		t.KeyUsage = x509.KeyUsageKeyAgreement
	case Signing:
		t.Subject = SigningName()
		t.KeyUsage, t.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	default:
		t.Subject = pkix.Name{Country: []string{"US"}, Organization: []string{"secexec"}, CommonName: fmt.Sprintf("test CA %d", l)}
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if change := w.Cert[l]; change != nil {
		change(t)
	}
	return t
}

// Make makes the world.
func (w World) Make() (*Made, error) {
	m := &Made{make(map[Level]*x509.Certificate), make(map[Level][]byte), make(map[Level]crypto.Signer)}
	for _, l := range w.levels() {
		t, key, above := w.template(l), w.key(l), w.Above(l)
		m.Keys[l] = key
		parent := t
		if l != Root {
			parent = m.Certs[above]
		}
		signer := m.Keys[above]
		if other := w.Signer[l]; other != nil {
			signer = other
		}
		parentCopy := *parent
		if change := w.Parent[l]; change != nil {
			change(&parentCopy)
		}
		parentCopy.PublicKey = signer.Public()
		der, err := x509.CreateCertificate(rand.Reader, t, &parentCopy, key.Public(), signer)
		if err != nil {
			return nil, fmt.Errorf("make certificate of level %d: %w", l, err)
		}
		if m.Certs[l], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("make certificate of level %d: %w", l, err)
		}
	}
	for _, l := range w.levels() {
		if l == Host {
			break
		}
		der, err := w.crl(m, l)
		if err != nil {
			return nil, err
		}
		m.CRLs[l] = der
	}
	return m, nil
}

func (w World) crl(m *Made, l Level) ([]byte, error) {
	list := NewList(m.Certs[l], w.Now)
	list.Revoke(big.NewInt(333)) // nobody's
	for _, r := range w.Revoked {
		if w.Above(r) == l {
			list.Revoke(m.Certs[r].SerialNumber)
		}
	}
	if change := w.CRL[l]; change != nil {
		change(&list)
	}
	key := w.CRLKey[l]
	if key == nil {
		var ok bool
		if key, ok = m.Keys[l].(*ecdsa.PrivateKey); !ok {
			key = ECKey(elliptic.P256(), int(l))
		}
	}
	return list.Sign(key)
}
