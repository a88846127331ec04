package api

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/tlstest"
)

// remote serves a node over TCP; returns its address. Common name alice is a
// tenant, ops administers, others are nobody.
func (n *testNode) remote(folder string) string {
	n.t.Helper()
	admit, err := NewTLS(TLSFiles{filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"), filepath.Join(folder, "ca.pem")}, slog.New(slog.DiscardHandler))
	if err != nil {
		n.t.Fatal(err)
	}
	admit.Client = func(name string) (*Caller, error) {
		switch name {
		case "ops":
			return &Caller{Admin: true}, nil
		case "alice":
			return &Caller{UID: alice.UID}, nil
		}
		return nil, fmt.Errorf("client %q is not known", name)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.serveOn(l, admit.Admit)
	return l.Addr().String()
}

func (n *testNode) far(address, folder string) (*client.Client, error) {
	c, err := client.Dial(n.t.Context(), "tcp://"+address, client.TLSFolder(folder))
	if err == nil {
		n.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// Who may call over TLS, and as whom.
func TestRemoteCallers(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	nodes, clients, others := tlstest.NewCA(t, "nodes"), tlstest.NewCA(t, "clients"), tlstest.NewCA(t, "others")
	address := n.remote(nodes.Folder("node", clients, nil))
	ops, err := n.far(address, clients.Folder("ops", nodes, nil))
	if err != nil {
		t.Fatal(err)
	}
	n.create(ops, "web")
	a, err := n.far(address, clients.Folder("alice", nodes, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get(t.Context(), "web"); code(err) != fault.NoGuest {
		t.Errorf("a tenant from afar sees another's guest: %v", err)
	}
	n.create(a, "own")
	for _, c := range []struct {
		name, folder string
		want         error
		words        string
	}{
		{"of another authority", others.Folder("ops", nodes, nil), client.ErrTLS, "the node refuses this client's certificate"},
		{"signed by itself", func() string { ca := tlstest.NewCA(t, "ops"); return ca.Folder("ops", nodes, nil) }(), client.ErrTLS, "refuses this client's certificate"},
		{"expired", clients.Folder("ops", nodes, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), client.ErrTLS, "refuses this client's certificate"},
		{"not valid yet", clients.Folder("ops", nodes, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), client.ErrTLS, "refuses this client's certificate"},
		{"for servers only", clients.Folder("ops", nodes, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), client.ErrTLS, "refuses this client's certificate"},
		{"of a node", nodes.Folder("ops", nodes, nil), client.ErrTLS, "refuses this client's certificate"},
		{"of nobody", clients.Folder("mallory", nodes, nil), nil, `H215: client "mallory" is not known`},
		{"without a name", clients.Folder("", nodes, nil), nil, `H215: client "" is not known`},
	} {
		conn, err := n.far(address, c.folder)
		if err == nil {
			_, err = conn.List(t.Context())
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("a certificate %s: %v", c.name, err)
		}
	}
}

// Peers that don't speak TLS as it is wanted come to nothing, in time.
func TestHostileTLS(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) { n.gate.hello = 300 * time.Millisecond })
	ca := tlstest.NewCA(t, "one")
	folder := ca.Folder("ops", ca, nil)
	address := n.remote(folder)
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		return conn
	}
	// A hundred that say nothing or stop in the middle of their first words.
	hello := clientHello(t)
	for i := range 100 {
		conn := dial()
		if _, err := conn.Write(hello[:i%len(hello)]); err != nil {
			t.Fatal(err)
		}
	}
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":        {MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}},
		"no certificate": {},
	} {
		config.InsecureSkipVerify = true
		conn := tls.Client(dial(), config)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 the refusal comes behind the client's part
		}
		if err == nil || !strings.Contains(err.Error(), "remote error") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"plain ttrpc": ask(1, "List", nil), "HTTP": []byte("GET / HTTP/1.0\r\n\r\n"), "half a hello": hello[:20], "a hello and no more": hello} {
		conn := dial()
		if _, err := conn.Write(b); err != nil || !ended(conn) {
			t.Errorf("%s: the connection goes on (%v)", name, err)
		}
	}
	// Byte by byte, never whole.
	conn := dial()
	for i := 0; ; i++ {
		if _, err := conn.Write(hello[i%len(hello) : i%len(hello)+1]); err != nil {
			break
		}
		if i > 3000 {
			t.Fatal("a byte now and then keeps a connection for ever")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// After a whole handshake the guard's rules hold.
	n.gate.first = 300 * time.Millisecond
	far := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	if err := far.Handshake(); err != nil || !ended(far) {
		t.Errorf("no call after the handshake: the connection goes on (%v)", err)
	}
	ok, err := n.far(address, folder)
	if err == nil {
		_, err = ok.List(t.Context())
	}
	if err != nil {
		t.Errorf("a good client beside them: %v", err)
	}
}

// Peers that never finish their TLS handshake take no more than their bound, and
// the unix socket's clients don't notice.
func TestTLSHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(n *testNode) { n.gate.hello = time.Minute })
	ca := tlstest.NewCA(t, "one")
	folder := ca.Folder("ops", ca, nil)
	address := n.remote(folder)
	var open []net.Conn
	for range maxHellos + 20 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		open = append(open, conn)
	}
	for _, conn := range open[maxHellos:] { // those that came last
		if !ended(conn) {
			t.Error("a handshake beyond the bound goes on")
		}
	}
	if _, err := n.dial(admin).List(t.Context()); err != nil {
		t.Errorf("over the unix socket: %v", err)
	}
	for _, conn := range open {
		conn.Close()
	}
	eventually(t, "there is room again", func() bool {
		c, err := n.far(address, folder)
		if err == nil {
			_, err = c.List(t.Context())
		}
		return err == nil
	})
}

// clientHello are a client's first words.
func clientHello(t *testing.T) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() { _ = tls.Client(b, &tls.Config{ServerName: "node", MinVersion: tls.VersionTLS13}).Handshake() }()
	defer b.Close()
	buf := make([]byte, 4096)
	n, err := a.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// Certificates are read again when their files change; while those are of no use
// the last ones hold.
func TestReload(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	old, later := tlstest.NewCA(t, "old"), tlstest.NewCA(t, "later")
	folder := old.Folder("node", old, nil)
	address := n.remote(folder)
	oldOps, laterOps := old.Folder("ops", old, nil), later.Folder("ops", later, nil)
	works := func(folder string) bool {
		c, err := n.far(address, folder)
		if err == nil {
			_, err = c.List(t.Context())
		}
		return err == nil
	}
	replace := func(from string) {
		t.Helper()
		for _, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
			text, err := os.ReadFile(filepath.Join(from, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, name+"2"), text, 0o600)
			}
			if err == nil {
				err = os.Rename(filepath.Join(folder, name+"2"), filepath.Join(folder, name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if !works(oldOps) || works(laterOps) {
		t.Fatal("at first")
	}
	if err := os.WriteFile(filepath.Join(folder, "cert.pem"), []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !works(oldOps) {
		t.Error("a damaged file stops the service")
	}
	replace(later.Folder("node", later, nil))
	if works(oldOps) || !works(laterOps) {
		t.Error("new files are not in force")
	}
}
