package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

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
	c := New(conn)
	c.redial = func(ctx context.Context) (*Client, error) { return Dial(ctx, address, t) }
	return c, nil
}

// New makes calls over a connection, which it owns.
func New(conn net.Conn) *Client {
	var options []ttrpc.ClientOpts
	if t, ok := conn.(*tlsConn); ok {
		options = append(options, ttrpc.WithUnaryClientInterceptor(t.explain))
	}
	c := ttrpc.NewClient(conn, options...)
	return &Client{conn: c, api: hostagentv1.NewHostagentClient(c)}
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
	conn := &tlsConn{Conn: tls.Client(plain, config), ended: make(chan struct{})}
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, fmt.Errorf("%w at %s: %w", ErrTLS, address, err)
	}
	return conn, nil
}

// tlsConn keeps the reason why reading ended. In TLS 1.3 a client's certificate
// is judged when the client has done its part, so a refusal comes to the first
// call, for which ttrpc has one word: closed.
type tlsConn struct {
	*tls.Conn
	once  sync.Once
	ended chan struct{} // closed when reason is valid
	why   error
}

// Read implements net.Conn.
func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(func() {
			c.why = err
			close(c.ended)
		})
	}
	return n, err
}

// explain is an interceptor of calls.
func (c *tlsConn) explain(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	err := invoke(ctx, req, resp)
	if !errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	select {
	case <-c.ended:
		return cmp.Or(refusal(c.why), err)
	case <-ctx.Done():
		return err
	case <-time.After(time.Second): // a write failed, and the reason is on its way
		return err
	}
}

// refusal is the other side's reason to end TLS, if that is what an error says.
func refusal(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("%w: the node refuses this client's certificate: %w", ErrTLS, op.Err)
	}
	return nil
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
