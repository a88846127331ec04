package platform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// HostKeyHashes implements [Platform]: the hash of the emulated host's one key,
// from its host key document.
func (p Emulated) HostKeyHashes() ([][32]byte, error) {
	path := filepath.Join(p.HostDir, hostCertFile)
	text, err := readFile(os.DirFS(p.HostDir), hostCertFile)
	if err != nil {
		return nil, fmt.Errorf("read host key document: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read host key document: %s is not PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read host key document %s: %w", path, err)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P521() {
		return nil, fmt.Errorf("read host key document %s: no P-521 key", path)
	}
	var coordinates [160]byte
	key.X.FillBytes(coordinates[:80])
	key.Y.FillBytes(coordinates[80:])
	return [][32]byte{sha256.Sum256(coordinates[:])}, nil
}
