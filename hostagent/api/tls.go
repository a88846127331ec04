package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
)

// TLSFiles are the PEM files of a hostagent that serves other machines.
type TLSFiles struct {
	Certificate, Key string // its own
	ClientCA         string // authorities that sign clients' certificates
}

// TLS admits clients over TCP by their certificates: TLS 1.3 only, and nobody
// without one. The files are read again when they change; while what is in them
// is of no use the last good ones hold.
type TLS struct {
	Client func(commonName string) (*Caller, error) // who a certificate stands for

	files TLSFiles
	log   *slog.Logger

	mu     sync.Mutex
	seen   [3]stamp // of the files
	config *tls.Config
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

// NewTLS reads the files. The caller sets Client.
func NewTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	t := &TLS{files: files, log: log, seen: stamps(files)}
	var err error
	t.config, err = files.load()
	return t, err
}

// Admit is the gate's for a TCP listener.
func (t *TLS) Admit(ctx context.Context, plain net.Conn) (net.Conn, *Caller, error) {
	conn := tls.Server(plain, t.current())
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS with %s: %w", plain.RemoteAddr(), err)
	}
	name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	caller, err := t.Client(name)
	if err != nil {
		return conn, nil, fault.New(fault.NotPermitted, "%w", err)
	}
	caller.From = fmt.Sprintf("%s with the certificate of %.100q", plain.RemoteAddr(), name)
	return conn, caller, nil
}

// current is the configuration of the files as they are now.
func (t *TLS) current() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := stamps(t.files); now != t.seen {
		t.seen = now
		config, err := t.files.load()
		if err != nil {
			t.log.Error("certificates changed and can't be read: the last ones hold", "error", err)
			return t.config
		}
		t.log.Info("certificates read again", "certificate", t.files.Certificate)
		t.config = config
	}
	return t.config
}

func stamps(f TLSFiles) (out [3]stamp) {
	for i, path := range []string{f.Certificate, f.Key, f.ClientCA} {
		if info, err := os.Stat(path); err == nil {
			out[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return out
}

func (f TLSFiles) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate: %w", err)
	}
	text, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("read authorities of clients: %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read authorities of clients: %s holds no certificate", f.ClientCA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		SessionTicketsDisabled: true, // each connection is judged anew
	}, nil
}
