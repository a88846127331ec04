package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	store "oras.land/oras-go/v2/registry/remote/credentials"
)

type (
	descriptor = ocispec.Descriptor
	reader     = io.Reader
)

// authFiles returns where podman and docker keep credentials, in podman's order
// (containers-auth.json(5)).
func authFiles(asked string) []string {
	if asked == "" {
		asked = os.Getenv("REGISTRY_AUTH_FILE")
	}
	if asked != "" {
		return []string{asked}
	}
	var files []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	} else {
		files = append(files, fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()))
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return files
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(home, ".config")
	}
	files = append(files, filepath.Join(config, "containers/auth.json"))
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return append(files, filepath.Join(dir, "config.json"))
	}
	return append(files, filepath.Join(home, ".docker/config.json"))
}

// credentials returns who looks up the credentials of a repository: the most
// specific entry first (host/a/b, host/a, host), file by file.
func credentials(asked string, ref registry.Reference) (auth.CredentialFunc, error) {
	var stores []store.Store
	for _, path := range authFiles(asked) {
		if _, err := os.Stat(path); err != nil {
			if asked != "" || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
				return nil, fmt.Errorf("read credentials: %w", err)
			}
			continue
		}
		s, err := store.NewStore(path, store.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("read credentials %s: %w", path, err)
		}
		stores = append(stores, s)
	}
	return func(ctx context.Context, host string) (auth.Credential, error) {
		names := []string{store.ServerAddressFromHostname(host)}
		if host == ref.Host() || host == ref.Registry {
			for path := ref.Repository; path != ""; {
				names = append(names, ref.Registry+"/"+path)
				path = path[:max(strings.LastIndexByte(path, '/'), 0)]
			}
			names = append(names[1:], names[0])
		}
		for _, s := range stores {
			for _, name := range names {
				c, err := s.Get(ctx, name)
				if err != nil {
					return auth.EmptyCredential, fmt.Errorf("look up credentials of %s: %w", host, err)
				}
				if c != auth.EmptyCredential {
					return c, nil
				}
			}
		}
		return auth.EmptyCredential, nil
	}, nil
}
