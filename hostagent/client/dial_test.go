package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/tlstest"
)

func TestDialRefusals(t *testing.T) {
	t.Parallel()
	ca := tlstest.NewCA(t, "nodes")
	folder := ca.Folder("admin", ca, nil)
	noCA := ca.Folder("admin", ca, nil)
	if err := os.WriteFile(filepath.Join(noCA, "ca.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		address, folder, words string
		want                   error
	}{
		{"/no/such.sock", "", "systemctl start hostagent", client.ErrNoHostagent},
		{"unix:///no/such.sock", "", "on /no/such.sock", client.ErrNoHostagent},
		{"http://node", folder, "tcp://HOST:PORT", client.ErrAddress},
		{"tcp://node", folder, "HOST:PORT", client.ErrAddress},
		{"tcp://node:1", "", "by --tls", client.ErrTLS},
		{"tcp://node:1", t.TempDir(), "cert.pem", client.ErrTLS},
		{"tcp://node:1", noCA, "ca.pem holds no certificate", client.ErrTLS},
		{"tcp://" + closed.Addr().String(), folder, "tls_client_ca", client.ErrNoHostagent},
	} {
		var files *client.TLS
		if c.folder != "" {
			files = client.TLSFolder(c.folder)
		}
		conn, err := client.Dial(t.Context(), c.address, files)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", c.address, err)
		}
	}
}

// The client wants TLS 1.3 and a certificate from its authority for the name
// that it dials.
func TestDialChecksTheNode(t *testing.T) {
	t.Parallel()
	ca := tlstest.NewCA(t, "nodes")
	mine := ca.Folder("admin", ca, nil)
	for _, c := range []struct {
		name, node, words string
		version           uint16
	}{
		{name: "good", node: ca.Folder("node", ca, nil)},
		{name: "another authority", node: tlstest.NewCA(t, "others").Folder("node", ca, nil), words: "unknown authority"},
		{name: "another name", node: ca.Folder("node", ca, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }), words: "127.0.0.2"},
		{name: "expired", node: ca.Folder("node", ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), words: "expired"},
		{name: "for clients only", node: ca.Folder("node", ca, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), words: "key usage"},
		{name: "TLS 1.2", node: ca.Folder("node", ca, nil), version: tls.VersionTLS12, words: "protocol version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pair, err := tls.LoadX509KeyPair(filepath.Join(c.node, "cert.pem"), filepath.Join(c.node, "key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: c.version})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if conn, err := l.Accept(); err == nil {
					_ = conn.(*tls.Conn).Handshake()
					conn.Close()
				}
			}()
			conn, err := client.Dial(t.Context(), "tcp://"+l.Addr().String(), client.TLSFolder(mine))
			if err == nil {
				conn.Close()
			}
			if (err != nil) != (c.words != "") || err != nil && (!errors.Is(err, client.ErrTLS) || !strings.Contains(err.Error(), c.words)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
