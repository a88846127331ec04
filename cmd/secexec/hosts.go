package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/crlstore"
)

// hostFlags are the flags by which a command gets host key documents and what
// they are verified with, named as pvimg names them.
type hostFlags struct {
	documents []string
	certs     []string
	crts      []string // certs by the flag's old name
	crls      []string
	rootCA    string
	offline   bool
	noVerify  bool

	cmd *cobra.Command // whose flags they are; nil when filled in otherwise
}

func (f *hostFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.documents, "host-key-document", "k", nil, "host key document of a host that may run the image (repeatable)")
	f.addCerts(cmd)
	flags.BoolVar(&f.noVerify, "no-verify", false, "take host key documents without verification")
	_ = cmd.MarkFlagRequired("host-key-document")
}

func (f *hostFlags) addCerts(cmd *cobra.Command) {
	f.cmd = cmd
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.certs, "cert", "C", nil, "IBM Z signing certificate or an intermediate CA's (repeatable)")
	flags.StringArrayVar(&f.crts, "crt", nil, "")
	_ = flags.MarkHidden("crt") // pvimg's old name
	flags.StringArrayVar(&f.crls, "crl", nil, "certificate revocation list of the chain (repeatable)")
	flags.BoolVar(&f.offline, "offline", false, "download no revocation lists: use only those of --crl")
	flags.StringVar(&f.rootCA, "root-ca", "", "root CA certificate (default: the system's)")
}

// load reads and verifies the documents.
func (f *hostFlags) load(warn io.Writer) ([]*hostkey.Document, error) {
	policy, err := f.policy(warn)
	if err != nil {
		return nil, err
	}
	var docs []*hostkey.Document
	seen := make(map[[32]byte]string)
	for _, path := range paths(f.documents) {
		doc, err := readDocument(path, warn)
		if err != nil {
			return nil, err
		}
		if first, twice := seen[doc.Hash()]; twice {
			return nil, fmt.Errorf("read host key document %s: it holds the same key as %s", path, first)
		}
		seen[doc.Hash()] = path
		docs = append(docs, doc)
	}
	if policy != nil {
		if _, err := hostkey.Verify(f.context(), docs, *policy); err != nil {
			return nil, fmt.Errorf("verify host key documents: %w", err)
		}
	}
	return docs, nil
}

func (f *hostFlags) context() context.Context {
	if f.cmd == nil || f.cmd.Context() == nil {
		return context.Background()
	}
	return f.cmd.Context()
}

// policy returns nil when nothing is to be verified.
func (f *hostFlags) policy(warn io.Writer) (*hostkey.Policy, error) {
	given := append(f.certs[:len(f.certs):len(f.certs)], f.crts...)
	if f.noVerify {
		if len(given) > 0 {
			return nil, usageError{fmt.Errorf("--no-verify excludes --cert")}
		}
		if len(f.crls) > 0 || f.offline || f.rootCA != "" {
			fmt.Fprintln(warn, "warning: --crl, --offline and --root-ca do nothing beside --no-verify")
		}
		fmt.Fprintln(warn, "warning: host key documents are not verified: anybody's key may open this image")
		return nil, nil
	}
	if len(given) == 0 {
		return nil, usageError{fmt.Errorf("no certificate to verify host key documents with: give the IBM Z signing certificate and its intermediate CA by --cert, or --no-verify")}
	}
	policy := &hostkey.Policy{Now: time.Now()}
	if !f.offline {
		policy.Fetch = &crlstore.Store{Dir: crlstore.DefaultDir()}
	}
	for _, path := range paths(given) {
		certs, crls, err := readCerts(path)
		if err != nil {
			return nil, fmt.Errorf("read certificate %s: %w", path, err)
		}
		policy.Certs, policy.CRLs = append(policy.Certs, certs...), append(policy.CRLs, crls...)
	}
	for _, path := range paths(f.crls) {
		certs, crls, err := readCerts(path)
		if err == nil && len(crls) == 0 {
			err = fmt.Errorf("it holds %d certificates and no CRL: certificates go to --cert", len(certs))
		}
		if err != nil {
			return nil, fmt.Errorf("read CRL %s: %w", path, err)
		}
		policy.CRLs = append(policy.CRLs, crls...)
	}
	return policy, f.addRoots(policy)
}

func (f *hostFlags) addRoots(policy *hostkey.Policy) (err error) {
	if f.rootCA == "" {
		policy.Roots, err = hostkey.SystemRoots(policy.Certs)
		return err
	}
	var crls []hostkey.CRL
	if policy.Roots, crls, err = readCerts(f.rootCA); err == nil && len(policy.Roots) == 0 {
		err = fmt.Errorf("it holds %d CRLs and no certificate", len(crls))
	}
	if err != nil {
		return fmt.Errorf("read root CA %s: %w", f.rootCA, err)
	}
	policy.CRLs = append(policy.CRLs, crls...)
	return nil
}

// paths splits at commas, as pvimg does, but only what is no file itself: a
// file's name may hold a comma.
func paths(given []string) (out []string) {
	for _, path := range given {
		if _, err := os.Lstat(path); err != nil && strings.Contains(path, ",") {
			out = append(out, strings.Split(path, ",")...)
			continue
		}
		out = append(out, path)
	}
	return out
}

// readDocument reads a host key document; the path "-" is standard input.
func readDocument(path string, warn io.Writer) (*hostkey.Document, error) {
	data, err := readInput(path, hostkey.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read host key document: %w", err)
	}
	doc, warnings, err := hostkey.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read host key document %s: %w", path, err)
	}
	doc.File = path
	for _, w := range warnings {
		fmt.Fprintf(warn, "warning: %s: %s\n", path, w)
	}
	return doc, nil
}

// readCerts reads a file of certificates and CRLs.
func readCerts(path string) ([]hostkey.Cert, []hostkey.CRL, error) {
	data, err := readInput(path, hostkey.MaxFileSize)
	if err != nil {
		return nil, nil, err
	}
	return hostkey.ParseFile(path, data)
}

// readInput is readSmall, with "-" for standard input.
func readInput(path string, limit int64) ([]byte, error) {
	if path == "-" {
		return readAll(os.Stdin, "standard input", limit)
	}
	return readSmall(path, limit)
}
