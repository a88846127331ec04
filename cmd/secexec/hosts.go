package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
)

// hostFlags are the flags by which a command gets host key documents and what
// they are verified with, named as pvimg names them.
type hostFlags struct {
	documents []string
	certs     []string
	rootCA    string
	noVerify  bool
}

func (f *hostFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.documents, "host-key-document", "k", nil, "host key document of a host that may run the image (repeatable)")
	f.addVerification(cmd)
	_ = cmd.MarkFlagRequired("host-key-document")
}

func (f *hostFlags) addVerification(cmd *cobra.Command) {
	f.addCerts(cmd)
	cmd.Flags().BoolVar(&f.noVerify, "no-verify", false, "take host key documents without verification")
}

func (f *hostFlags) addCerts(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.certs, "cert", "C", nil, "IBM Z signing certificate or an intermediate CA's (repeatable)")
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
	for _, path := range f.documents {
		doc, err := readDocument(path, warn)
		if err != nil {
			return nil, err
		}
		if policy != nil {
			if err := hostkey.Verify(doc, *policy); err != nil {
				return nil, fmt.Errorf("verify host key document %s: %w", path, err)
			}
		}
		if first, twice := seen[doc.Hash()]; twice {
			return nil, fmt.Errorf("read host key document %s: it holds the same key as %s", path, first)
		}
		seen[doc.Hash()] = path
		docs = append(docs, doc)
	}
	return docs, nil
}

// policy returns nil when nothing is to be verified.
func (f *hostFlags) policy(warn io.Writer) (*hostkey.Policy, error) {
	if f.noVerify {
		if len(f.certs) > 0 || f.rootCA != "" {
			return nil, usageError{fmt.Errorf("--no-verify excludes --cert and --root-ca")}
		}
		fmt.Fprintln(warn, "warning: host key documents are not verified: anybody's key may open this image")
		return nil, nil
	}
	if len(f.certs) == 0 {
		return nil, usageError{fmt.Errorf("no certificate to verify host key documents with: give the IBM Z signing certificate and its intermediate CA by --cert, or --no-verify")}
	}
	policy := &hostkey.Policy{Now: time.Now()}
	for _, path := range f.certs {
		certs, err := readCertificates(path)
		if err != nil {
			return nil, err
		}
		policy.Certs = append(policy.Certs, certs...)
	}
	if f.rootCA != "" {
		roots, err := readCertificates(f.rootCA)
		if err != nil {
			return nil, err
		}
		if len(roots) != 1 {
			return nil, fmt.Errorf("read root CA %s: %d certificates, wants one", f.rootCA, len(roots))
		}
		policy.Root = roots[0]
	}
	return policy, nil
}

func readDocument(path string, warn io.Writer) (*hostkey.Document, error) {
	data, err := readSmall(path, hostkey.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read host key document: %w", err)
	}
	doc, warnings, err := hostkey.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read host key document %s: %w", path, err)
	}
	for _, w := range warnings {
		fmt.Fprintf(warn, "warning: %s: %s\n", path, w)
	}
	return doc, nil
}

// readCertificates reads one DER certificate or several in PEM from a file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readSmall(path, hostkey.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	certs, err := hostkey.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return certs, nil
}
