package sealed

import "crypto/ed25519"

// Limits of a channel.
const (
	MaxClients = 16
	MaxSecrets = 32
)

// Channel is the owner's channel: who may use it, and for what.
type Channel struct {
	Clients [][ed25519.PublicKeySize]byte // keys of TLS clients, at least one
	Exec    bool                          // a client may run programs in the guest
	Secrets []SecretFile                  // that a client delivers
}

// SecretFile is a file in memory whose content a client delivers. The workload
// is started only when all are there; an init is not waited with.
type SecretFile struct {
	Name     string // in /run/secexec/secrets
	UID, GID uint32
	Mode     uint16 // permission bits
}

func (ch *Channel) check() error {
	if ch == nil {
		return nil
	}
	if len(ch.Clients) == 0 || len(ch.Clients) > MaxClients || len(ch.Secrets) > MaxSecrets {
		return invalid("channel has %d clients and %d secrets, wants 1 to %d and at most %d", len(ch.Clients), len(ch.Secrets), MaxClients, MaxSecrets)
	}
	seen := make(map[[ed25519.PublicKeySize]byte]bool)
	for _, k := range ch.Clients {
		if k == [ed25519.PublicKeySize]byte{} || seen[k] {
			return invalid("channel has a client's key twice, or one that is zero")
		}
		seen[k] = true
	}
	names := make(map[string]bool)
	for _, s := range ch.Secrets {
		if err := CheckSecretFile(s); err != nil {
			return err
		}
		if names[s.Name] {
			return invalid("secret file %s is named twice", s.Name)
		}
		names[s.Name] = true
	}
	return nil
}

// CheckSecretFile refuses what may not be a record's SecretFile.
func CheckSecretFile(s SecretFile) error {
	if !plainName(s.Name) || s.Mode == 0 || s.Mode&^0o777 != 0 {
		return invalid("secret file %q with mode %#o: a plain name and permission bits are wanted", s.Name, s.Mode)
	}
	return nil
}

func (ch *Channel) fields(c *codec) {
	list(c, &ch.Clients, MaxClients, func(c *codec, k *[ed25519.PublicKeySize]byte) { c.fixed(k[:]) })
	c.flag(&ch.Exec)
	list(c, &ch.Secrets, MaxSecrets, func(c *codec, s *SecretFile) {
		c.path(&s.Name)
		c.u32(&s.UID)
		c.u32(&s.GID)
		c.u16(&s.Mode)
	})
}
