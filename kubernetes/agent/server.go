package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// serviceAccount is where kubelet puts a pod's credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// Bounds of a request.
const (
	requestTimeout = 20 * time.Second
	maxAnswer      = 64 << 20 // bytes; all pods of a node, of about 10 KiB each
	maxFile        = 1 << 20  // of a token or of certificates
)

// ErrServer is wrapped by errors about where the API server is.
var ErrServer = errors.New("no Kubernetes API server")

// Server is a Kubernetes API server. Four requests are all that is asked of it,
// so this is HTTP and JSON: client-go would double secexec.
type Server struct {
	URL       string // https://HOST:PORT
	CAFile    string // certificates that its own must lead to, "": the system's
	TokenFile string // read for each request, because kubelet renews it; "": none

	mu     sync.Mutex
	ca     []byte // CAFile's content that client goes by
	client *http.Client
}

// InCluster is the API server as a pod finds it.
func InCluster() (*Server, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("%w: this is no pod of a cluster: name one by --server", ErrServer)
	}
	return &Server{
		URL: "https://" + net.JoinHostPort(host, port), CAFile: filepath.Join(serviceAccount, "ca.crt"), TokenFile: filepath.Join(serviceAccount, "token"),
	}, nil
}

// Check refuses an address that is none, and a token that would travel in the open.
func (s *Server) Check() error {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("%w: %.200q is not https://HOST:PORT", ErrServer, s.URL)
	case u.Scheme == "http" && s.TokenFile != "":
		return fmt.Errorf("%w: a token goes to https:// only", ErrServer)
	}
	return nil
}

// statusError is the API server's refusal.
type statusError struct {
	code  int // of HTTP
	words string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the API server answers %d: %.500s", e.code, e.words)
}

// gone tells whether an error says that what was to be changed is not there any
// more, or is another one of the same name.
func gone(err error) bool {
	var status *statusError
	return errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusConflict)
}

// get reads an object or a list. What the server has in memory is new enough.
func (s *Server) get(ctx context.Context, path string, query url.Values, into any) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("resourceVersion", "0")
	return s.do(ctx, http.MethodGet, path, query, "", nil, into)
}

// Media types of patches.
const (
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
)

func (s *Server) patch(ctx context.Context, path, kind string, body any) error {
	return s.do(ctx, http.MethodPatch, path, url.Values{"fieldManager": {"secexec-node"}}, kind, body, nil)
}

func (s *Server) do(ctx context.Context, method, path string, query url.Values, kind string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	client, err := s.http()
	if err != nil {
		return err
	}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.URL, "/")+path+"?"+query.Encode(), bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "secexec-node")
	if body != nil {
		r.Header.Set("Content-Type", kind)
	}
	if s.TokenFile != "" {
		token, err := readFile(s.TokenFile)
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		var status struct {
			Message string `json:"message"`
		}
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 16<<10))
		if json.Unmarshal(text, &status) != nil || status.Message == "" {
			status.Message = string(text)
		}
		return &statusError{answer.StatusCode, status.Message}
	}
	bounded := &io.LimitedReader{R: answer.Body, N: maxAnswer}
	if into != nil {
		if err := json.NewDecoder(bounded).Decode(into); err != nil {
			return fmt.Errorf("read the API server's answer: %w", err)
		}
	}
	_, err = io.Copy(io.Discard, bounded) // so that the connection is used again
	return err
}

// http is a client that trusts what CAFile holds now.
func (s *Server) http() (*http.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ca []byte
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		var err error
		if ca, err = readFile(s.CAFile); err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s holds no certificate", s.CAFile)
		}
	}
	if s.client == nil || !bytes.Equal(ca, s.ca) {
		if s.client != nil {
			s.client.CloseIdleConnections()
		}
		s.ca, s.client = ca, &http.Client{
			Transport:     &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, MaxIdleConns: 4},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return s.client, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return b, err
}
