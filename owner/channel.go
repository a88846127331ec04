package owner

import (
	"crypto/ed25519"
	"fmt"

	"github.com/secexec/secexec/sealed"
)

// Names of the channel's files in the secrets folder.
const (
	ChannelKeyFile = "channel.key" // Ed25519 seed, 32 bytes: the client's side of the owner's channel
	ChannelPublic  = "channel.pub" // its public key, hex
)

// Channel is the owner's channel into the guest. The build's own channel key may
// always use it.
type Channel struct {
	Disable bool                // there is none
	Clients []ed25519.PublicKey // keys that may use it, too
	Exec    bool                // they may run programs in the guest
	Secrets []sealed.SecretFile // that they deliver
}

// seal is what the record says of the channel, nil for none. own is the build's
// key.
func (c *Channel) seal(own ed25519.PublicKey) *sealed.Channel {
	if c.Disable {
		return nil
	}
	out := &sealed.Channel{Exec: c.Exec, Secrets: c.Secrets}
	for _, key := range append([]ed25519.PublicKey{own}, c.Clients...) {
		out.Clients = append(out.Clients, [ed25519.PublicKeySize]byte(key))
	}
	return out
}

func (c *Channel) check() error {
	if c.Disable && (len(c.Clients) > 0 || c.Exec || len(c.Secrets) > 0) {
		return fmt.Errorf("plan channel: it is disabled, and has clients, exec or secrets all the same")
	}
	if len(c.Clients) >= sealed.MaxClients {
		return fmt.Errorf("plan channel: %d clients, at most %d", len(c.Clients), sealed.MaxClients-1)
	}
	if len(c.Secrets) > sealed.MaxSecrets {
		return fmt.Errorf("plan channel: %d secrets, at most %d", len(c.Secrets), sealed.MaxSecrets)
	}
	seen, names := make(map[string]bool), make(map[string]bool)
	for _, key := range c.Clients {
		if len(key) != ed25519.PublicKeySize || seen[string(key)] {
			return fmt.Errorf("plan channel: a client's key is none, or is there twice")
		}
		seen[string(key)] = true
	}
	for _, s := range c.Secrets {
		if err := sealed.CheckSecretFile(s); err != nil {
			return fmt.Errorf("plan channel: %w", err)
		}
		if names[s.Name] {
			return fmt.Errorf("plan channel: secret %s is named twice", s.Name)
		}
		names[s.Name] = true
	}
	return nil
}
