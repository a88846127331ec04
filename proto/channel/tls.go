package channel

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// ErrPeer says that the other end of a session does not have the key that it
// should have.
var ErrPeer = errors.New("the other end of the channel has another key")

// ServerTLS is the guest's side: its per-boot key proves who it is, and it takes
// clients whose key the owner sealed.
func ServerTLS(key ed25519.PrivateKey, clients [][ed25519.PublicKeySize]byte) (*tls.Config, error) {
	return config(key, func(peer ed25519.PublicKey) bool {
		return slices.Contains(clients, [ed25519.PublicKeySize]byte(peer))
	})
}

// ClientTLS is the owner's side: it goes on only with the guest whose per-boot
// key a verified readiness report names.
func ClientTLS(key ed25519.PrivateKey, guest ed25519.PublicKey) (*tls.Config, error) {
	return config(key, func(peer ed25519.PublicKey) bool { return guest.Equal(peer) })
}

// config asks for TLS 1.3 and the peer's certificate at either end. A
// certificate is only the form that TLS wants a key in: no name, time or issuer
// of it matters, the guest's clock least of all, which is the host's.
func config(key ed25519.PrivateKey, trusted func(ed25519.PublicKey) bool) (*tls.Config, error) {
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no end
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of the channel: %w", err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS13,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // of chain and name; the key is what VerifyConnection checks
		SessionTicketsDisabled: true, // each session is signed for anew
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) != 1 {
				return fmt.Errorf("%w: %d certificates", ErrPeer, len(s.PeerCertificates))
			}
			peer, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || !trusted(peer) {
				return ErrPeer
			}
			return nil
		},
	}, nil
}
