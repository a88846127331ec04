package owner

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// Names in the secrets folder. All files have mode 0600.
const (
	HeaderKeyFile  = "header.key"   // SE header protection key, 32 bytes: opens the header (pvimg's --hdr-key)
	ImageKeyFile   = "image.key"    // component encryption key, 64 bytes
	CommKeyFile    = "cck.key"      // customer communication key, 32 bytes
	VolumeKeyFile  = "volume.key"   // the root's dm-crypt volume key, 64 bytes, 96 with integrity (cryptsetup --volume-key-file); NAME.volume.key for a data volume
	DiskKeyFile    = "disk.key"     // key file of its LUKS2 key slot (cryptsetup --key-file); NAME.disk.key for a data volume
	IdentityFile   = "identity.key" // Ed25519 seed, 32 bytes: the guest signs readiness with it
	IdentityPublic = "identity.pub" // its public key, hex: checks readiness reports
	AboutFile      = "about.json"   // which build these belong to
	PreviousDir    = "previous"     // the same files of the build that this one replaced
)

// secrets are the keys of one build but for its disks'. Build owns them and
// wipes them.
type secrets struct {
	Header, Image, Comm, Identity secret.Bytes
	Channel                       secret.Bytes // of the plan's channel
}

func newSecrets() *secrets {
	return &secrets{
		Header:   secret.Random(32),
		Image:    secret.Random(64),
		Comm:     secret.Random(32),
		Identity: secret.Random(ed25519.SeedSize),
		Channel:  secret.Random(ed25519.SeedSize),
	}
}

func (s *secrets) wipe() {
	for _, key := range []secret.Bytes{s.Header, s.Image, s.Comm, s.Identity, s.Channel} {
		key.Wipe()
	}
}

func (s *secrets) channelPublic() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(s.Channel).Public().(ed25519.PublicKey)
}

// About is about.json in the secrets folder: which build the keys belong to,
// and from what its disks were made.
type About struct {
	Name        string               `json:"name"`
	ImageID     string               `json:"image_id"`
	ImageSHA256 string               `json:"image_sha256"`
	RootID      string               `json:"root_id"`
	Built       string               `json:"built"` // RFC 3339
	Disks       map[string]DiskAbout `json:"disks"` // by name; "root" is the root
}

func about(p *Plan, r *sealed.Record, disks []*disk, m *bundle.Manifest) *About {
	a := &About{
		Name: p.Name, ImageID: m.Image.ID, ImageSHA256: m.Image.SHA256, RootID: hex.EncodeToString(r.Root.ID[:]),
		Built: time.Now().UTC().Format(time.RFC3339), Disks: make(map[string]DiskAbout),
	}
	for _, d := range disks {
		a.Disks[d.name] = d.about
	}
	return a
}

// write puts the keys into the secrets folder.
func (s *secrets) write(dir *outfile.Dir, disks []*disk, channel bool, a *About) error {
	files := map[string]secret.Bytes{HeaderKeyFile: s.Header, ImageKeyFile: s.Image, CommKeyFile: s.Comm, IdentityFile: s.Identity}
	public := map[string]ed25519.PublicKey{IdentityPublic: ed25519.NewKeyFromSeed(s.Identity).Public().(ed25519.PublicKey)}
	if channel {
		files[ChannelKeyFile], public[ChannelPublic] = s.Channel, s.channelPublic()
	}
	for _, d := range disks {
		if d.fresh {
			continue
		}
		files[d.volumeKeyFile()], files[d.passphraseFile()] = d.key, d.passphrase
	}
	for file, key := range files {
		if err := dir.WriteFile(file, key, 0o600); err != nil {
			return err
		}
	}
	for file, key := range public {
		if err := dir.WriteFile(file, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", AboutFile, err)
	}
	return dir.WriteFile(AboutFile, append(text, '\n'), 0o600)
}
