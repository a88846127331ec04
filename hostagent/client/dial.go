package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/ttrpc"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// DefaultSocket is where hostagent listens unless told otherwise.
const DefaultSocket = "/run/secexec/hostagent.sock"

// Errors of Dial.
var (
	ErrNoHostagent = errors.New("no hostagent listens")
	ErrAddress     = errors.New("invalid address of a hostagent")
	ErrTLS         = errors.New("no secure connection to hostagent")
)

// TLS names the files, all PEM, that a client needs for a hostagent on another
// machine.
type TLS struct {
	CA   string // certificates of the authority that signed the node's
	Cert string // the client's own, with what leads up to hostagent's tls_client_ca
	Key  string // of Cert
}

// TLSFolder are the files of a folder that holds ca.pem, cert.pem and key.pem.
func TLSFolder(dir string) *TLS {
	return &TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
}

// Dial connects to a hostagent: over a unix socket, whose address is its path,
// or one on another machine, whose address is tcp://HOST:PORT. Only the latter
// uses t, and cannot do without.
func Dial(ctx context.Context, address string, t *TLS) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if scheme, rest, found := strings.Cut(address, "://"); !found {
		conn, err = dialUnix(ctx, address)
	} else if scheme == "unix" {
		conn, err = dialUnix(ctx, rest)
	} else if scheme == "tcp" {
		conn, err = dialTCP(ctx, rest, t)
	} else {
		err = fmt.Errorf("%w: %.200q is neither a socket's path nor tcp://HOST:PORT", ErrAddress, address)
	}
	if err != nil {
		return nil, err
	}
	c := ttrpc.NewClient(conn)
	return &Client{c, hostagentv1.NewHostagentClient(c)}, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s: systemctl start hostagent, or name its socket by --socket", ErrNoHostagent, path)
	case errors.Is(err, os.ErrPermission):
		return nil, fault.New(fault.NotPermitted, "connect to hostagent: %w", err)
	case err != nil:
		return nil, fmt.Errorf("connect to hostagent: %w", err)
	}
	return conn, nil
}

func dialTCP(ctx context.Context, address string, t *TLS) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q is not HOST:PORT", ErrAddress, address)
	}
	if t == nil {
		return nil, fmt.Errorf("%w at %s: name a folder with ca.pem, cert.pem and key.pem by --tls", ErrTLS, address)
	}
	config, err := t.config(host)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrTLS, address, err)
	}
	var d net.Dialer
	plain, err := d.DialContext(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w at %s: its settings need listen, tls_certificate, tls_key and tls_client_ca", ErrNoHostagent, address)
	case err != nil:
		return nil, fmt.Errorf("connect to hostagent: %w", err)
	}
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, fmt.Errorf("%w at %s: %w", ErrTLS, address, err)
	}
	return conn, nil
}

// config reads the files.
func (t *TLS) config(host string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", t.CA)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: host}, nil
}
