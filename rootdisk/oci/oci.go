// Package oci opens container images for their files: a layout folder, a layout
// or docker archive in a tar, or a registry's. It checks every digest and
// trusts nothing that they don't cover; it unpacks nothing.
//
// References have the transports of podman and skopeo
// (containers-transports(5)): oci:DIR[:TAG], oci-archive:FILE[:TAG],
// docker-archive:FILE[:NAME] and docker://NAME.
package oci

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Errors.
var (
	ErrReference = errors.New("no valid image reference")
	ErrImage     = errors.New("image refused")
	ErrDigest    = errors.New("digest does not match")
	ErrPlatform  = errors.New("image is for another platform")
)

// Bounds of what an image may make of this machine.
const (
	maxDocument = 4 << 20 // bytes of a manifest, index or configuration: registries' own bound
	maxLayers   = 512
	maxIndex    = 1024 // entries of one index
	maxNesting  = 3    // indexes in indexes
)

// Options say where and for what an image is opened.
type Options struct {
	Architecture string // as GOARCH; "": s390x
	SkipTLS      bool   // as podman's --tls-verify=false: also plain HTTP, also unknown certificates
	Temp         string // folder for a compressed archive's plain copy; "": the system's
}

// Config is what an image says of the process it is for.
type Config struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	User       string   `json:"User,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	StopSignal string   `json:"StopSignal,omitempty"`

	Volumes     map[string]struct{} `json:"Volumes,omitempty"`     // folders for data of their own
	Healthcheck *Healthcheck        `json:"Healthcheck,omitempty"` // Docker's, not OCI's
}

// Healthcheck is a program that an engine would run again and again.
type Healthcheck struct{ Test []string }

// Image is an open image. Close ends it.
type Image struct {
	Digest string // of the manifest, or of a docker archive's configuration
	Config Config

	layers  []Descriptor
	diffIDs []string // digests of the layers' plain tars
	from    source
}

// Descriptor points at a blob.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Platform is what an entry of an index is for.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// source gives blobs. What it gives is not checked yet.
type source interface {
	blob(ctx context.Context, d Descriptor) (io.ReadCloser, error)
	io.Closer
}

// Transport splits a reference into its transport and the rest; ok tells
// whether it has one.
func Transport(ref string) (transport, rest string, ok bool) {
	for _, t := range []string{"oci", "oci-archive", "docker-archive"} {
		if rest, ok := strings.CutPrefix(ref, t+":"); ok {
			return t, rest, true
		}
	}
	rest, ok = strings.CutPrefix(ref, "docker://")
	return "docker", rest, ok
}

// Reference makes a reference of a path to an image, by what is there: a layout
// folder, or a layout's or docker's archive. A reference it leaves as it is.
func Reference(ctx context.Context, path string) (string, error) {
	if _, _, ok := Transport(path); ok {
		return path, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("open image: %w", err)
	}
	if info.IsDir() {
		if _, err := os.Lstat(filepath.Join(path, "oci-layout")); err != nil {
			return "", fmt.Errorf("open image %.200s: %w: a folder without oci-layout is no container image: say --root for a folder with a root's files", path, ErrImage)
		}
		return "oci:" + path, nil
	}
	f, err := openPlain(ctx, path, "")
	if err != nil {
		return "", fmt.Errorf("open image %.200s: %w", path, err)
	}
	a, err := newArchive(f)
	if err != nil {
		f.Close()
		return "", fmt.Errorf("open image %.200s: %w", path, err)
	}
	defer a.Close()
	switch { // docker writes both in one; the layout has a digest of everything
	case a.has("oci-layout"):
		return "oci-archive:" + path, nil
	case a.has("manifest.json"):
		return "docker-archive:" + path, nil
	}
	return "", fmt.Errorf("open image %.200s: %w: it has neither oci-layout nor manifest.json: say --root for a tar of a root's files", path, ErrImage)
}

// Open opens the image for linux and an architecture.
func Open(ctx context.Context, ref string, o Options) (*Image, error) {
	if o.Architecture == "" {
		o.Architecture = "s390x"
	}
	transport, rest, ok := Transport(ref)
	if !ok || rest == "" {
		return nil, fmt.Errorf("%w: %.200q", ErrReference, ref)
	}
	var img *Image
	var err error
	switch transport {
	case "oci":
		img, err = openLayout(ctx, rest, o)
	case "oci-archive", "docker-archive":
		img, err = openArchive(ctx, transport, rest, o)
	case "docker":
		img, err = openRegistry(ctx, rest, o)
	}
	if err != nil {
		return nil, fmt.Errorf("open image %.200s: %w", ref, err)
	}
	return img, nil
}

// Layers is the number of layers.
func (i *Image) Layers() int { return len(i.layers) }

// Close ends the image.
func (i *Image) Close() error { return i.from.Close() }

// Layer opens a layer's plain tar. Its digests are checked when it is closed,
// which reads it to its end: what was read is good only if Close gives no error.
func (i *Image) Layer(ctx context.Context, n int) (io.ReadCloser, error) {
	blob, err := i.from.blob(ctx, i.layers[n])
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", n+1, err)
	}
	outer, err := newVerifier(blob, i.layers[n].Digest, i.layers[n].Size)
	if err != nil {
		blob.Close()
		return nil, err
	}
	plain, err := Decompress(outer)
	if err != nil {
		blob.Close()
		return nil, fmt.Errorf("%w: layer %d: %w", ErrImage, n+1, err)
	}
	inner, err := newVerifier(plain, i.diffIDs[n], -1)
	if err != nil {
		blob.Close()
		return nil, err
	}
	return &layer{inner, outer}, nil
}

type layer struct{ inner, outer *verifier }

func (l *layer) Read(b []byte) (int, error) { return l.inner.Read(b) }

func (l *layer) Close() error {
	// The outer one first: a broken stream is for its digest to tell.
	inner := l.inner.finish()
	return errors.Join(errors.Join(l.outer.finish(), inner), l.inner.r.Close(), l.outer.r.Close())
}

// verifier checks a stream's digest and size.
type verifier struct {
	r      io.ReadCloser
	h      hash.Hash
	digest string
	size   int64 // -1: any up to maxTrailing after what was read
	n      int64
}

// maxTrailing is what may follow a tar's end in a layer: tar pads to records.
const maxTrailing = 64 << 20

func newVerifier(r io.ReadCloser, digest string, size int64) (*verifier, error) {
	h, _, err := parseDigest(digest)
	if err != nil {
		return nil, err
	}
	return &verifier{r: r, h: h, digest: digest, size: size}, nil
}

func (v *verifier) Read(b []byte) (int, error) {
	n, err := v.r.Read(b)
	v.h.Write(b[:n])
	if v.n += int64(n); v.size >= 0 && v.n > v.size {
		return 0, fmt.Errorf("%w: %s has more than %d bytes", ErrDigest, v.digest, v.size)
	}
	return n, err
}

func (v *verifier) finish() error {
	limit := int64(maxTrailing)
	if v.size >= 0 {
		limit = v.size - v.n + 1
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(v, limit)); err != nil {
		return fmt.Errorf("read %s: %w", v.digest, err)
	} else if n >= limit {
		return fmt.Errorf("%w: %s goes on after its end", ErrImage, v.digest)
	}
	if _, want, _ := parseDigest(v.digest); hex.EncodeToString(v.h.Sum(nil)) != want || v.size >= 0 && v.n != v.size {
		return fmt.Errorf("%w: what came is not %s (damaged, or changed)", ErrDigest, v.digest)
	}
	return nil
}

// parseDigest splits a digest into its hash and its hexadecimal digits.
func parseDigest(digest string) (hash.Hash, string, error) {
	alg, digits, _ := strings.Cut(digest, ":")
	h := map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}[alg]
	if b, err := hex.DecodeString(digits); h == nil || err != nil || len(b) != h().Size() || strings.ToLower(digits) != digits {
		return nil, "", fmt.Errorf("%w: digest %.100q", ErrImage, digest)
	}
	return h(), digits, nil
}

// document reads and checks a JSON document.
func document(ctx context.Context, s source, d Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxDocument {
		return nil, fmt.Errorf("%w: document %.100q has %d bytes, at most %d are taken", ErrImage, d.Digest, d.Size, maxDocument)
	}
	r, err := s.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v, err := newVerifier(r, d.Digest, d.Size)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(v)
	if err != nil {
		return nil, err
	}
	return b, v.finish()
}

func unmarshal(b []byte, what string, v any) error {
	if len(b) > maxDocument {
		return fmt.Errorf("%w: its %s has more than %d bytes", ErrImage, what, maxDocument)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: its %s: %w", ErrImage, what, err)
	}
	return nil
}
