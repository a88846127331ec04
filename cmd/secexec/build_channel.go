package main

import (
	"crypto/ed25519"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/owner/buildfile"
	"github.com/secexec/secexec/sealed"
)

// addChannel adds the flags of the owner's channel.
func (b *buildFlags) addChannel(cmd *cobra.Command) {
	f, g := cmd.Flags(), &b.given.Channel
	f.Var((*secretList)(&g.Secrets), "secret", "`SECRET` that the owner delivers later: name=NAME, then mode=0400, user=UID, group=GID (repeatable)")
	b.field("secret", "channel.secrets", func(f *buildfile.File) { f.Channel.Secrets = g.Secrets })
	f.BoolVar(&g.Exec, "channel-exec", false, "let the owner run programs in the guest by secexec connect exec")
	b.field("channel-exec", "channel.exec", func(f *buildfile.File) { f.Channel.Exec = g.Exec })
	f.StringArrayVar(&g.Clients, "channel-client", nil, "`KEY`, as in channel.pub, that may use the channel too (repeatable)")
	b.field("channel-client", "channel.clients", func(f *buildfile.File) { f.Channel.Clients = g.Clients })
	f.BoolVar(&g.Disable, "no-channel", false, "make no channel into the guest")
	b.field("no-channel", "channel.disable", func(f *buildfile.File) { f.Channel.Disable = g.Disable })
}

// channelOf is a plan's channel from the build file's.
func channelOf(f *buildfile.Channel) (owner.Channel, error) {
	c := owner.Channel{Disable: f.Disable, Exec: f.Exec}
	for _, text := range f.Clients {
		key, err := owner.ParseIdentity([]byte(text))
		if err != nil {
			return c, usageError{fmt.Errorf("client of the channel: %w", err)}
		}
		c.Clients = append(c.Clients, ed25519.PublicKey(key))
	}
	for _, s := range f.Secrets {
		mode := uint64(0o400)
		if s.Mode != "" {
			var err error
			if mode, err = strconv.ParseUint(s.Mode, 8, 16); err != nil {
				return c, usageError{fmt.Errorf("secret %s: mode %q is not octal, such as 0400", s.Name, s.Mode)}
			}
		}
		c.Secrets = append(c.Secrets, sealed.SecretFile{Name: s.Name, UID: uint32(s.User), GID: uint32(s.Group), Mode: uint16(mode)})
	}
	return c, nil
}

// secretList is a repeatable flag of secrets, in the form of --volume.
type secretList []buildfile.Secret

func (l *secretList) String() string { return "" }
func (l *secretList) Type() string   { return "secret" }
func (l *secretList) Set(text string) error {
	var s buildfile.Secret
	for word := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(word, "=")
		var id uint64
		var err error
		switch key {
		case "name":
			s.Name = value
		case "mode":
			s.Mode = value
		case "user":
			id, err = strconv.ParseUint(value, 10, 32)
			s.User = int(id)
		case "group":
			id, err = strconv.ParseUint(value, 10, 32)
			s.Group = int(id)
		default:
			err = fmt.Errorf("%q is none of name=, mode=, user= and group=", word)
		}
		if err != nil {
			return err
		}
	}
	*l = append(*l, s)
	return nil
}
