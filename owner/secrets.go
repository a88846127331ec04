package owner

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// Names in the secrets folder. All files have mode 0600.
const (
	HeaderKeyFile  = "header.key"   // SE header protection key, 32 bytes: opens the header (pvimg's --hdr-key)
	ImageKeyFile   = "image.key"    // component encryption key, 64 bytes
	CommKeyFile    = "cck.key"      // customer communication key, 32 bytes
	VolumeKeyFile  = "volume.key"   // dm-crypt volume key, 64 bytes (cryptsetup --volume-key-file)
	DiskKeyFile    = "disk.key"     // key file of the LUKS2 key slot (cryptsetup --key-file)
	IdentityFile   = "identity.key" // Ed25519 seed, 32 bytes: the guest signs readiness with it
	IdentityPublic = "identity.pub" // its public key, hex: checks readiness reports
	AboutFile      = "about.json"   // which build these belong to
	PreviousDir    = "previous"     // the same files of the build that this one replaced
)

// secrets are the keys of one build. Build owns them and wipes them.
type secrets struct {
	Header, Image, Comm, Volume, Passphrase, Identity secret.Bytes
}

func newSecrets() *secrets {
	return &secrets{
		Header:     secret.Random(32),
		Image:      secret.Random(64),
		Comm:       secret.Random(32),
		Volume:     secret.Random(sealed.KeySize),
		Passphrase: secret.Random(64),
		Identity:   secret.Random(ed25519.SeedSize),
	}
}

func (s *secrets) wipe() {
	for _, key := range []secret.Bytes{s.Header, s.Image, s.Comm, s.Volume, s.Passphrase, s.Identity} {
		key.Wipe()
	}
}

// write puts the keys into the secrets folder.
func (s *secrets) write(dir *outfile.Dir, name string, r *sealed.Record, root *RootAbout) error {
	for file, key := range map[string]secret.Bytes{
		HeaderKeyFile: s.Header, ImageKeyFile: s.Image, CommKeyFile: s.Comm,
		VolumeKeyFile: s.Volume, DiskKeyFile: s.Passphrase, IdentityFile: s.Identity,
	} {
		if err := dir.WriteFile(file, key, 0o600); err != nil {
			return err
		}
	}
	pub := hex.EncodeToString(r.PublicKey()) + "\n"
	if err := dir.WriteFile(IdentityPublic, []byte(pub), 0o600); err != nil {
		return err
	}
	about, err := json.MarshalIndent(About{
		Name:    name,
		ImageID: hex.EncodeToString(r.ImageID[:]),
		RootID:  hex.EncodeToString(r.Root.ID[:]),
		Built:   time.Now().UTC().Format(time.RFC3339),
		Root:    root,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", AboutFile, err)
	}
	return dir.WriteFile(AboutFile, append(about, '\n'), 0o600)
}

// ParseIdentity parses the text of identity.pub, or the identity of a
// manifest: an Ed25519 public key in hex.
func ParseIdentity(text []byte) (ed25519.PublicKey, error) {
	if len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	key := make([]byte, ed25519.PublicKeySize)
	if len(text) != 2*len(key) {
		return nil, fmt.Errorf("parse identity: %d characters, wants an Ed25519 public key of %d in hex", len(text), 2*len(key))
	}
	if _, err := hex.Decode(key, text); err != nil {
		return nil, fmt.Errorf("parse identity: %w", err)
	}
	return key, nil
}
