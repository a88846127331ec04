package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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

// shownDocument is a document as show and hash print it in JSON.
type shownDocument struct {
	File       string    `json:"file"`
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	Serial     string    `json:"serial"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Signature  string    `json:"signature_algorithm"`
	CRLs       []string  `json:"crl_distribution_points"`
	Hash       string    `json:"host_key_hash"`
	Authority  string    `json:"authority_key_id,omitempty"`
	SubjectKey string    `json:"subject_key_id,omitempty"`
}

// readDocuments reads all of the documents, or says which one it can't.
func readDocuments(args []string, warn io.Writer) (docs []*hostkey.Document, err error) {
	stdin := 0
	for _, path := range args {
		if path == "-" {
			stdin++
		}
	}
	if stdin > 1 {
		return nil, usageError{errors.New("standard input is named twice")}
	}
	for _, path := range args {
		doc, err := readDocument(path, warn)
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func newHostkeyShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show FILE...",
		Short:   "Show what host key documents certify, unverified",
		Long:    "Show prints what host key documents say. It verifies nothing: secexec hostkey verify does. The file - is standard input.",
		Example: `  secexec hostkey show HKD-8562-1234567.crt`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, err := readDocuments(args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			all := []shownDocument{}
			for _, doc := range docs {
				c := doc.Cert
				all = append(all, shownDocument{
					File: doc.File, Subject: doc.Subject(), Issuer: c.Issuer.String(), Serial: fmt.Sprintf("%x", c.SerialNumber),
					NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Signature: c.SignatureAlgorithm.String(),
					CRLs: append([]string{}, c.CRLDistributionPoints...), Hash: fmt.Sprintf("%x", doc.Hash()),
					Authority: fmt.Sprintf("%x", c.AuthorityKeyId), SubjectKey: fmt.Sprintf("%x", c.SubjectKeyId),
				})
			}
			if asJSON {
				return printJSON(cmd, all)
			}
			for i, s := range all {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				fields := []string{"file", s.File, "subject", s.Subject, "issuer", s.Issuer, "serial", s.Serial,
					"valid", s.NotBefore.Format(time.RFC3339) + " to " + s.NotAfter.Format(time.RFC3339), "signature", s.Signature}
				for _, url := range s.CRLs {
					fields = append(fields, "revocation list", url)
				}
				if err := term.Fields(cmd.OutOrStdout(), append(fields, "host key hash", s.Hash)...); err != nil {
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
	var asJSON, prefixed bool
	var check string
	cmd := &cobra.Command{
		Use:   "hash FILE...",
		Short: "Print host key hashes, as key slots and /sys/firmware/uv/keys name them",
		Long: `Hash prints the SHA-256 by which an image's key slots name a host key, a line
for each document, as sha256sum does. The first column is a hash file for
secexec image test --key-hashes. The file - is standard input.

With --check it tells which documents' hashes are in a hash file, such as this
machine's: a hash first on each line, with or without 0x or colons. Exit status
0: all are.`,
		Example: `  secexec hostkey hash HKD-8562-1234567.crt`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, err := readDocuments(args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			type hashed struct {
				File  string `json:"file"`
				Hash  string `json:"host_key_hash"`
				Found *bool  `json:"found,omitempty"` // in the file of --check
			}
			var known [][32]byte
			if check != "" {
				text, err := readInput(check, hostkey.MaxSize)
				if err == nil {
					known, err = hostkey.ParseHashes(text)
				}
				if err != nil {
					return fmt.Errorf("read host key hashes %s: %w", check, err)
				}
			}
			missing := false
			all := []hashed{}
			for _, doc := range docs {
				word := fmt.Sprintf("%x", doc.Hash())
				if prefixed {
					word = "0x" + word // as the files in /sys/firmware/uv/keys have it
				}
				h := hashed{File: doc.File, Hash: word}
				if check != "" {
					found := slices.Contains(known, doc.Hash())
					h.Found, missing = &found, missing || !found
				}
				all = append(all, h)
			}
			if asJSON {
				if err := printJSON(cmd, all); err != nil {
					return err
				}
			} else {
				for _, h := range all {
					fmt.Fprintf(cmd.OutOrStdout(), "%s  %s%s\n", h.Hash, term.Printable(h.File), foundWord(h.Found))
				}
			}
			if missing {
				return statusError(exitFailure)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&check, "check", "", "look each hash up in a hash `file`, such as "+hostkey.HashesFile)
	cmd.Flags().BoolVar(&prefixed, "0x", false, "put 0x before each hash, as in /sys/firmware/uv/keys")
	return cmd
}

func foundWord(found *bool) string {
	switch {
	case found == nil:
		return ""
	case *found:
		return ": found"
	}
	return ": not found"
}

func newHostkeyVerify() *cobra.Command {
	var hosts hostFlags
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "verify [-k] FILE... -C SIGNING -C INTERMEDIATE [--crl FILE]... [--offline] [--root-ca ROOT]",
		Short: "Verify host key documents: chain, signatures, dates, key strengths, revocation lists",
		Long: `Verify checks that documents are those of IBM Z hosts: one IBM Z signing
certificate, its chain to a trusted root, revocation lists for all of the chain
and the document, dates and key strengths.

Revocation lists come from --crl and, without --offline, from the distribution
points that the certificates name, side by side, at most 3 seconds. Downloads
are kept in the user's cache folder until they are out of date.

A file may be PEM or DER, and hold several certificates and lists. The file -
is standard input. Exit status 0: all documents are accepted.`,
		Example: `  secexec hostkey verify HKD-8562-1234567.crt -C ibm-z-host-key-signing.crt -C DigiCertCA.crt
  secexec hostkey verify HKD-*.crt -C certs.pem --crl crls.pem --offline --root-ca DigiCertRoot.crt --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			documents := append(paths(hosts.documents), args...)
			if len(documents) == 0 {
				return usageError{errors.New("no host key document given: see secexec hostkey verify --help")}
			}
			policy, err := hosts.policy(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			docs, err := readDocuments(documents, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			report, refused := hostkey.Verify(cmd.Context(), docs, *policy)
			if report == nil {
				return refused
			}
			if asJSON {
				if err := printJSON(cmd, report); err != nil {
					return err
				}
			} else {
				printReport(cmd.OutOrStdout(), report, verbose)
			}
			if refused != nil {
				return fmt.Errorf("verify host key documents: %w", refused)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&hosts.documents, "host-key-document", "k", nil, "host key document (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report with each check in JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print each check, not only those that failed")
	hosts.addCerts(cmd)
	once(cmd.Flags())
	return cmd
}

// printReport prints a line for each document and one for each check that
// failed; verbose, for each check.
func printReport(w io.Writer, r *hostkey.Report, verbose bool) {
	checks := func(list []hostkey.Check) {
		for _, c := range list {
			if c.Result == hostkey.OK && !verbose {
				continue
			}
			about := strings.TrimSpace(string(c.Role) + " " + c.File)
			fmt.Fprintf(w, "  %-7s  %s: %s: %s\n", c.Result, term.Printable(about), c.What, term.Printable(c.Detail))
		}
	}
	checks(r.Chain)
	for _, d := range r.Documents {
		verdict := "ok"
		if !d.Accepted {
			verdict = "refused"
		}
		fmt.Fprintf(w, "%s: %s, %s\n", term.Printable(d.File), verdict, term.Printable(d.Subject))
		checks(d.Checks)
	}
}

// printJSON prints a value as people pipe it into jq.
func printJSON(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
