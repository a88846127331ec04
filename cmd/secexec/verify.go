package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/owner"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
)

// identityFlags say which key a readiness report must be signed with.
type identityFlags struct{ path string }

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "identity", "", "identity.pub from the owner's secrets (default: the bundle's own key)")
}

// verdict is what a verified report says.
type verdict struct {
	ImageID string `json:"image_id"`
	BootID  string `json:"boot_id"`
	RootID  string `json:"root_id"`
	By      string `json:"by"` // "owner": identity.pub; "bundle": the key in the manifest
}

func (v *verdict) words() string {
	if v.By == "owner" {
		return fmt.Sprintf("signed by image %s with the owner's identity key, boot %s", v.ImageID, v.BootID)
	}
	return fmt.Sprintf("signed by image %s with the key that the bundle names, boot %s; the owner verifies with --identity", v.ImageID, v.BootID)
}

// verify asks the guest over a fresh nonce and checks its report.
func (f identityFlags) verify(ctx context.Context, c *client.Client, g *hostagentv1.Guest) (*verdict, error) {
	v := &verdict{By: "bundle"}
	var key ed25519.PublicKey
	var err error
	if f.path != "" {
		v.By = "owner"
		var text []byte
		if text, err = readSmall(f.path, 4<<10); err == nil {
			key, err = owner.ParseIdentity(text)
		}
	} else {
		key, err = owner.ParseIdentity([]byte(g.Identity))
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	nonce := make([]byte, readiness.NonceSize)
	_, _ = rand.Read(nonce)
	raw, err := c.Challenge(ctx, g.Name, nonce)
	if err != nil {
		return nil, err
	}
	claims, err := report.Verify(key, nonce, raw)
	if err != nil {
		return nil, fmt.Errorf("verify guest %s: %w", g.Name, err)
	}
	v.ImageID, v.BootID, v.RootID = hex.EncodeToString(claims.ImageID), hex.EncodeToString(claims.BootID), hex.EncodeToString(claims.RootID)
	return v, nil
}

func newVerify() *cobra.Command {
	var agent agentFlags
	var check identityFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify GUEST --identity FILE",
		Short: "Ask a guest for a signed readiness report over a fresh nonce, and check it",
		Long: `Verify proves that a guest answers now that was unpacked from the owner's own
image, which only firmware holding a designated host key can do. It does not prove
which of several copies of the image answered, nor that the workload is well.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.with(cmd.Context(), func(c *client.Client) error {
				g, err := c.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				v, err := check.verify(cmd.Context(), c, g)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd, v)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: verified: %s\n", g.Name, v.words())
				if !g.Protected {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: platform %s: whoever runs this host can read all of it\n", g.Name, g.Platform)
				}
				return nil
			})
		},
	}
	check.add(cmd)
	agent.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
