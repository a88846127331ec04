package artifact

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/secexec/secexec/bundle"
)

// Access says how to reach a registry, as podman's flags of the same names.
type Access struct {
	AuthFile  string // credentials, "" for podman's and docker's places
	NoVerify  bool   // take any TLS certificate, and plain HTTP where there is no TLS
	PlainHTTP bool
}

// Place is where a bundle is or goes: a repository of a registry, an OCI layout
// folder or a tar archive of one.
type Place struct {
	target  target // nil for a layout or archive that Push makes
	ref     string // tag or digest
	name    string // as the caller wrote it
	dir     string // of a layout
	archive string // file of an archive
}

// target is what a registry's repository and an OCI layout have in common.
type target interface {
	content.Storage
	content.TagResolver
}

// ErrReference says that a reference has no form that is known.
var ErrReference = errors.New("invalid reference")

// Open opens a place by its reference: HOST[:PORT]/REPOSITORY[:TAG|@DIGEST], the
// same after docker://, oci:FOLDER[:TAG] or oci-archive:FILE[:TAG], as
// containers-transports(5) has them. The tag is latest where none is given. What
// is to be written on this machine is made by Push.
func Open(ctx context.Context, reference string, a Access, write bool) (*Place, error) {
	if rest, ok := strings.CutPrefix(reference, "oci:"); ok {
		return openLayout(ctx, reference, rest, write)
	}
	if rest, ok := strings.CutPrefix(reference, "oci-archive:"); ok {
		return openArchive(ctx, reference, rest, write)
	}
	ref, err := registry.ParseReference(strings.TrimPrefix(reference, "docker://"))
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w: write HOST/REPOSITORY:TAG, oci:FOLDER:TAG or oci-archive:FILE:TAG", ErrReference, reference, err)
	}
	if ref.Reference == "" {
		ref.Reference = "latest"
	}
	if write && ref.ValidateReferenceAsDigest() == nil {
		return nil, fmt.Errorf("%w: %q: a bundle is pushed to a tag, not to a digest", ErrReference, reference)
	}
	credential, err := credentials(a.AuthFile, ref)
	if err != nil {
		return nil, err
	}
	repo := &remote.Repository{
		Reference:        ref,
		PlainHTTP:        a.PlainHTTP,
		MaxMetadataBytes: MaxManifest,
		Client:           &auth.Client{Client: client(a.NoVerify), Cache: auth.NewCache(), Credential: credential, ClientID: "secexec"},
	}
	if a.NoVerify && !a.PlainHTTP {
		reg := &remote.Registry{RepositoryOptions: remote.RepositoryOptions{Reference: ref, Client: repo.Client}}
		if err := reg.Ping(ctx); errors.Is(err, http.ErrSchemeMismatch) {
			repo.PlainHTTP = true
		}
	}
	// Registries that know the referrers API or not: we need no referrers.
	_ = repo.SetReferrersCapability(true)
	return &Place{target: repo, ref: ref.Reference, name: reference}, nil
}

func openLayout(ctx context.Context, reference, rest string, write bool) (*Place, error) {
	dir, tag, tagged := rest, "latest", false
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.ContainsRune(rest[i:], '/') {
		dir, tag, tagged = rest[:i], rest[i+1:], true
	}
	if dir == "" || tagged && tag == "" {
		return nil, fmt.Errorf("%w: %q: write oci:FOLDER:TAG", ErrReference, reference)
	}
	if !write {
		if info, err := os.Stat(dir + "/index.json"); err == nil && !info.Mode().IsRegular() { // a pipe would wait for its writer
			return nil, fmt.Errorf("open OCI layout %s: index.json is no regular file", dir)
		}
		store, err := oci.NewFromFS(ctx, os.DirFS(dir))
		if err != nil {
			return nil, fmt.Errorf("open OCI layout %s with its index.json: %w", dir, err)
		}
		return &Place{target: readOnly{store}, ref: tag, name: reference, dir: dir}, nil
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(dir + "/oci-layout"); err != nil {
			return nil, fmt.Errorf("open OCI layout %s: it is a folder with something else", dir)
		}
	}
	return &Place{ref: tag, name: reference, dir: dir}, nil
}

// make makes what is to be written on this machine. It waits until the bundle is
// known to be whole.
func (p *Place) make(ctx context.Context) (err error) {
	switch {
	case p.target != nil:
	case p.archive != "":
		p.target, err = createArchive(p.archive)
	default:
		p.target, err = oci.NewWithContext(ctx, p.dir)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", p.name, err)
	}
	return nil
}

// commit makes an archive appear, complete.
func (p *Place) commit() error {
	if a, ok := p.target.(*archiveWriter); ok {
		return a.commit()
	}
	return nil
}

// abort removes an archive that was not committed.
func (p *Place) abort() {
	if a, ok := p.target.(*archiveWriter); ok {
		a.file.Abort()
		p.target = nil
	}
}

// readOnly is a layout that is only read.
type readOnly struct{ *oci.ReadOnlyStore }

func (readOnly) Push(context.Context, descriptor, reader) error { return errors.ErrUnsupported }
func (readOnly) Tag(context.Context, descriptor, string) error  { return errors.ErrUnsupported }

// client returns an HTTP client that gives up on a server that is silent, and
// follows no redirect from TLS to plain text.
func client(noVerify bool) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = time.Minute
	t.MaxResponseHeaderBytes = 64 << 10
	t.DialContext = (&net.Dialer{Timeout: 20 * time.Second}).DialContext
	if noVerify {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // asked for by --tls-verify=false
	}
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 5 {
			return errors.New("more than 5 redirects")
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("redirect from https to " + req.URL.Scheme)
		}
		return nil
	}}
}

// Tries of one transfer and the pause after the first; each later one is twice
// as long.
const tries = 5

// again runs a transfer until it succeeds or trying again is of no use.
func again(ctx context.Context, pause time.Duration, transfer func() error) error {
	for try := 1; ; try++ {
		err := transfer()
		if err == nil || try == tries || ctx.Err() != nil || !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// passing tells whether an error may be gone the next time: the network's, a
// server's own, or bytes damaged on the way.
func passing(err error) bool {
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout
	}
	for _, lasting := range []error{
		ErrInvalid, ErrChoice, bundle.ErrManifest, bundle.ErrMissing, errLocal, errdef.ErrNotFound, errdef.ErrUnsupported,
		fs.ErrNotExist, fs.ErrPermission, http.ErrSchemeMismatch, auth.ErrBasicCredentialNotFound,
	} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	var local *fs.PathError // such as a full disk
	if errors.As(err, &local) {
		return false
	}
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &cert)
}

// errLocal is wrapped by errors of the local disk: trying again is of no use.
var errLocal = errors.New("local file")
