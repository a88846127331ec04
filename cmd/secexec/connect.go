package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/channel"
	"github.com/secexec/secexec/proto/guestagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/secret"
)

// Bounds of waiting for a guest, which may be slow and has a host in between.
const (
	openTimeout    = 20 * time.Second // for a session
	secureTimeout  = 60 * time.Second // for TLS in it
	channelTimeout = 30 * time.Second // for a call
)

// connectFlags say how to reach a guest by the owner's channel.
type connectFlags struct {
	agent                  agentFlags
	secrets, identity, key string
}

func newConnect() *cobra.Command {
	f := new(connectFlags)
	cmd := &cobra.Command{
		Use:   "connect GUEST --secrets DIR",
		Short: "Talk to a guest of one's own, past its host",
		Long: `Connect opens the owner's channel into a guest and shows how the guest is; its
commands deliver secrets, read logs, restart the workload and run programs.

The guest first signs a fresh nonce with its identity key, as for secexec verify.
The report names a key made at this boot, and only the guest that has it is
talked to, by TLS 1.3; the guest takes only clients whose key its owner sealed.
The host relays the bytes. It can cut them, but not read, change or replay them.
On the emulated platform whoever runs the host can read the guest itself.`,
		Example: "  secexec connect web --secrets web-secrets",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.status(cmd, args[0], false) },
	}
	f.add(cmd)
	cmd.AddCommand(newConnectStatus(), newConnectSecret(), newConnectLogs(), newConnectRestart(), newConnectExec())
	return cmd
}

func (f *connectFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.secrets, "secrets", "", "`DIR` with the guest's secrets, as secexec build made it: identity.pub and channel.key are there")
	cmd.Flags().StringVar(&f.identity, "identity", "", "identity.pub, if it is elsewhere")
	cmd.Flags().StringVar(&f.key, "key", "", "client's key, if it is another one than channel.key")
	f.agent.add(cmd)
}

// keys reads the guest's identity and the client's own key, which the caller
// wipes.
func (f *connectFlags) keys() (identity ed25519.PublicKey, seed secret.Bytes, err error) {
	identityPath, keyPath := f.identity, f.key
	if f.secrets != "" && identityPath == "" {
		identityPath = filepath.Join(f.secrets, owner.IdentityPublic)
	}
	if f.secrets != "" && keyPath == "" {
		keyPath = filepath.Join(f.secrets, owner.ChannelKeyFile)
	}
	if identityPath == "" || keyPath == "" {
		return nil, nil, usageError{errors.New("whose guest is it? Give --secrets, or --identity and --key")}
	}
	text, err := readSmall(identityPath, 4<<10)
	if err != nil {
		return nil, nil, fmt.Errorf("read identity: %w", err)
	}
	if identity, err = owner.ParseIdentity(text); err != nil {
		return nil, nil, err
	}
	raw, err := readSmall(keyPath, 4<<10)
	if err != nil {
		return nil, nil, fmt.Errorf("read channel key: %w", err)
	}
	if len(raw) != ed25519.SeedSize {
		clear(raw)
		return nil, nil, fmt.Errorf("read channel key %s: %d bytes, wants the %d of an Ed25519 seed", keyPath, len(raw), ed25519.SeedSize)
	}
	return identity, raw, nil
}

// with connects to a guest and does something.
func (f *connectFlags) with(ctx context.Context, name string, do func(guestagentv1.GuestagentClient) error) error {
	identity, seed, err := f.keys()
	if err != nil {
		return err
	}
	defer seed.Wipe()
	return f.agent.with(ctx, func(c *client.Client) error {
		g, err := openGuest(ctx, c, name, identity, ed25519.NewKeyFromSeed(seed))
		if err != nil {
			return fmt.Errorf("connect to guest %s: %w", name, err)
		}
		rpc := ttrpc.NewClient(g)
		defer rpc.Close()
		if err := g.explain(do(guestagentv1.NewGuestagentClient(rpc))); err != nil {
			return fmt.Errorf("guest %s: %w", name, err)
		}
		return nil
	})
}

// openGuest verifies a guest and opens the channel to it.
func openGuest(ctx context.Context, c *client.Client, name string, identity ed25519.PublicKey, key ed25519.PrivateKey) (*guestConn, error) {
	nonce := make([]byte, readiness.NonceSize)
	_, _ = rand.Read(nonce)
	raw, err := c.Challenge(ctx, name, nonce)
	if err != nil {
		return nil, err
	}
	claims, err := report.Verify(identity, nonce, raw)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	config, err := channel.ClientTLS(key, claims.BootKey)
	if err != nil {
		return nil, err
	}
	stream, err := c.Channel(ctx, name)
	if err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	session, err := channel.Dial(opening, stream)
	if errors.Is(err, channel.ErrNoAnswer) {
		return nil, fmt.Errorf("%w: its image may be sealed without one, or its host cuts it", err)
	}
	if err != nil {
		return nil, err
	}
	secure := tls.Client(session, config)
	handshake, cancel := context.WithTimeout(ctx, secureTimeout)
	defer cancel()
	if err := secure.HandshakeContext(handshake); err != nil {
		session.Close()
		return nil, fmt.Errorf("TLS with the guest: %w", err)
	}
	return &guestConn{Conn: secure}, nil
}

// guestConn is a connection to a guest that remembers why it ended: ttrpc only
// says that it did.
type guestConn struct {
	net.Conn
	end atomic.Pointer[error]
}

// Read implements net.Conn.
func (g *guestConn) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err != nil {
		g.end.CompareAndSwap(nil, &err)
	}
	return n, err
}

// explain finds the words for a call's error.
func (g *guestConn) explain(err error) error {
	var alert tls.AlertError
	end := g.end.Load()
	switch {
	case err == nil:
		return nil
	case end != nil && errors.As(*end, &alert), end != nil && strings.Contains((*end).Error(), "tls: bad certificate"):
		return errors.New("it does not know this key: the owner seals clients' keys with secexec build")
	case end != nil && (errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF)):
		return fmt.Errorf("the channel was cut: %w", *end)
	}
	if st, ok := status.FromError(err); ok {
		return errors.New(term.Printable(st.Message()))
	}
	return err
}

// callGuest makes a call with a deadline.
func callGuest[Q, A any](ctx context.Context, timeout time.Duration, f func(context.Context, Q) (A, error), request Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx, request)
}
