package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostkey"
)

func newHostkey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hostkey",
		Short: "Look at and verify host key documents",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newHostkeyShow(), newHostkeyHash(), newHostkeyVerify())
	return cmd
}

func newHostkeyShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE...",
		Short: "Show what host key documents certify",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			type shown struct {
				File      string    `json:"file"`
				Subject   string    `json:"subject"`
				Issuer    string    `json:"issuer"`
				Serial    string    `json:"serial"`
				NotBefore time.Time `json:"not_before"`
				NotAfter  time.Time `json:"not_after"`
				Hash      string    `json:"host_key_hash"`
			}
			var all []shown
			for _, path := range args {
				doc, err := readDocument(path, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				c := doc.Cert
				all = append(all, shown{path, doc.Subject(), c.Issuer.String(), fmt.Sprintf("%x", c.SerialNumber), c.NotBefore, c.NotAfter, fmt.Sprintf("%x", doc.Hash())})
			}
			if asJSON {
				return printJSON(cmd, all)
			}
			for _, s := range all {
				if err := term.Fields(cmd.OutOrStdout(), "file", s.File, "subject", s.Subject, "issuer", s.Issuer, "serial", s.Serial,
					"valid", s.NotBefore.UTC().Format(time.RFC3339)+" to "+s.NotAfter.UTC().Format(time.RFC3339), "host key hash", s.Hash); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newHostkeyHash() *cobra.Command {
	return &cobra.Command{
		Use:   "hash FILE...",
		Short: "Print host key hashes, as key slots and /sys/firmware/uv/keys name them",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, path := range args {
				doc, err := readDocument(path, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%x  %s\n", doc.Hash(), path)
			}
			return nil
		},
	}
}

func newHostkeyVerify() *cobra.Command {
	var hosts hostFlags
	cmd := &cobra.Command{
		Use:   "verify FILE... --cert SIGNING --cert INTERMEDIATE [--root-ca ROOT]",
		Short: "Verify host key documents: dates, key strengths, signature, chain (no revocation lists)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, err := hosts.policy(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			for _, path := range args {
				doc, err := readDocument(path, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				if err := hostkey.Verify(doc, *policy); err != nil {
					return fmt.Errorf("verify host key document %s: %w", path, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %s\n", path, term.Printable(doc.Subject()))
			}
			return nil
		},
	}
	hosts.addCerts(cmd)
	return cmd
}

// printJSON prints a value as people pipe it into jq.
func printJSON(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
