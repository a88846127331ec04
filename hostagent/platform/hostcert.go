package platform

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/hostkey"
)

// HostKeyHashes implements [Platform]: the hash of the emulated host's one key,
// from its host key document.
func (p Emulated) HostKeyHashes() ([][32]byte, error) {
	doc, err := hostDocument(p.HostDir)
	if err != nil {
		return nil, err
	}
	return [][32]byte{doc.Hash()}, nil
}

// hostDocument reads an emulated host's host key document. Who signed it matters
// to owners, not to the host itself.
func hostDocument(dir string) (*hostkey.Document, error) {
	text, err := readFile(os.DirFS(dir), hostCertFile)
	if err != nil {
		return nil, fmt.Errorf("read host key document: %w", err)
	}
	doc, _, err := hostkey.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read host key document %s: %w", filepath.Join(dir, hostCertFile), err)
	}
	return doc, nil
}
