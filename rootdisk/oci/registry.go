package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// repository is a registry's repository as a source of blobs.
type repository struct{ *remote.Repository }

func (r repository) Close() error { return nil }

func (r repository) blob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	if _, _, err := parseDigest(d.Digest); err != nil {
		return nil, err
	}
	return r.Fetch(ctx, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size})
}

func openRegistry(ctx context.Context, name string, o Options) (*Image, error) {
	ref, err := registry.ParseReference(fullName(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q: %w", ErrReference, name, err)
	}
	store, err := logins()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = time.Minute
	if o.SkipTLS {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for, and digests hold all the same
	}
	client := &auth.Client{
		Client:     &http.Client{Transport: retry.NewTransport(transport)},
		Cache:      auth.NewCache(),
		Credential: credentials.Credential(store),
	}
	client.SetUserAgent("secexec")
	repo := &remote.Repository{Client: client, Reference: ref, MaxMetadataBytes: maxDocument}
	found, err := repo.Resolve(ctx, ref.ReferenceOrDefault())
	if o.SkipTLS && err != nil && ctx.Err() == nil && !isAnswer(err) {
		repo.PlainHTTP = true
		found, err = repo.Resolve(ctx, ref.ReferenceOrDefault())
	}
	if err != nil {
		return nil, err
	}
	d := Descriptor{MediaType: found.MediaType, Digest: found.Digest.String(), Size: found.Size}
	return resolve(ctx, repository{repo}, d, o.Architecture)
}

// isAnswer tells a registry's own refusal from a failure to talk to it.
func isAnswer(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) || errors.Is(err, errdef.ErrNotFound)
}

// fullName completes a name as docker does: debian:12 is
// docker.io/library/debian:12.
func fullName(name string) string {
	host, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return "docker.io/" + name
	}
	return name
}

// logins finds the user's logins where podman and docker keep them: the file
// that REGISTRY_AUTH_FILE names, else podman's, then docker's.
func logins() (credentials.Store, error) {
	if name := os.Getenv("REGISTRY_AUTH_FILE"); name != "" {
		if _, err := os.Stat(name); err != nil {
			return nil, fmt.Errorf("read REGISTRY_AUTH_FILE: %w", err)
		}
		return credentials.NewStore(name, credentials.StoreOptions{})
	}
	docker := credentials.NewMemoryStore()
	if os.Getenv("HOME") != "" || os.Getenv("DOCKER_CONFIG") != "" {
		var err error
		if docker, err = credentials.NewStoreFromDocker(credentials.StoreOptions{}); err != nil {
			return nil, fmt.Errorf("read docker's logins: %w", err)
		}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		name := filepath.Join(dir, "containers", "auth.json")
		if _, err := os.Stat(name); err == nil {
			podman, err := credentials.NewStore(name, credentials.StoreOptions{})
			if err != nil {
				return nil, fmt.Errorf("read podman's logins: %w", err)
			}
			return credentials.NewStoreWithFallbacks(podman, docker), nil
		}
	}
	return docker, nil
}
