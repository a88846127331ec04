package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// upload is a blob on its way into a registry in pieces, as OCI's distribution
// spec has it: POST opens a session, each PATCH brings a piece, PUT closes it. A
// session outlives connections and, as its address is kept in a file, this
// process: whoever finds it asks how far it is and goes on. CNCF's distribution
// (seen: 2.8) drops a session that was cut inside a piece; then all begins anew.
type upload struct {
	repo  *remote.Repository
	desc  ocispec.Descriptor
	src   io.ReaderAt
	count *counter
	t     tuning
	note  string // file with the session's address, "" for none

	session *url.URL
	at      int64 // bytes that the registry has
	known   bool  // at is the registry's word
	counted int64
	piece   int64
	turns   int // sessions opened and questions asked since a piece was taken
	opened  int // sessions
}

// Bounds of what a registry that never takes a piece, or forgets those it took,
// can make us do.
const (
	maxTurns    = 16
	maxSessions = 5
)

// errWhole says that a registry takes no pieces: send the blob whole.
var errWhole = errors.New("registry takes no pieces")

func newUpload(repo *remote.Repository, desc ocispec.Descriptor, src io.ReaderAt, count *counter, t tuning) *upload {
	u := &upload{repo: repo, desc: desc, src: src, count: count, t: t, piece: t.chunk}
	if dir, err := os.UserCacheDir(); err == nil {
		of := sha256.Sum256([]byte(repo.Reference.Registry + "/" + repo.Reference.Repository + "@" + string(desc.Digest)))
		u.note = filepath.Join(dir, "secexec", "uploads", fmt.Sprintf("%x", of[:16]))
	}
	return u
}

func (u *upload) run(ctx context.Context) error {
	ctx = auth.AppendRepositoryScope(ctx, u.repo.Reference, auth.ActionPull, auth.ActionPush)
	if text, err := os.ReadFile(u.note); err == nil && len(text) < 64<<10 {
		if session, err := url.Parse(string(text)); err == nil && u.own(session) == nil {
			u.session = session
		}
	}
	for u.at < u.desc.Size {
		if err := again(ctx, u.t.pause, func() error { return u.step(ctx) }); err != nil {
			return err
		}
	}
	err := again(ctx, u.t.pause, func() error { return u.close(ctx) })
	if err == nil && u.note != "" {
		_ = os.Remove(u.note)
	}
	return err
}

// step opens a session, asks how far one is, or brings a piece, whichever is
// next.
func (u *upload) step(ctx context.Context) error {
	ctx, alive, end := watched(ctx, u.t.stall)
	defer end()
	if u.turns++; u.turns > maxTurns {
		return fmt.Errorf("%w: the registry takes no piece of %s and does not say why", ErrInvalid, u.desc.Digest)
	}
	if u.session == nil {
		return cause(ctx, u.open(ctx))
	}
	if !u.known {
		return cause(ctx, u.ask(ctx))
	}
	n := min(u.piece, u.desc.Size-u.at)
	u.known = false // until it answers
	resp, err := u.do(ctx, http.MethodPatch, u.session, n, alive)
	if err != nil {
		return cause(ctx, err)
	}
	if resp.StatusCode != http.StatusAccepted {
		err := answer(resp)
		switch {
		case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable: // it has more or less than we thought
			return u.ask(ctx)
		case resp.StatusCode == http.StatusNotFound:
			u.session = nil
			return nil
		case resp.StatusCode < 500 && u.at == 0 && resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden &&
			resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout:
			return fmt.Errorf("%w: %w", errWhole, err)
		}
		return err
	}
	resp.Body.Close()
	u.turns = 0
	return u.take(resp, u.at+n, true)
}

func (u *upload) open(ctx context.Context) error {
	if u.opened++; u.opened > maxSessions {
		return fmt.Errorf("%w: the registry forgot the upload of %s %d times", ErrInvalid, u.desc.Digest, maxSessions)
	}
	scheme := "https"
	if u.repo.PlainHTTP {
		scheme = "http"
	}
	to := &url.URL{Scheme: scheme, Host: u.repo.Reference.Host(), Path: "/v2/" + u.repo.Reference.Repository + "/blobs/uploads/"}
	resp, err := u.do(ctx, http.MethodPost, to, 0, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		return answer(resp)
	}
	resp.Body.Close()
	if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil {
		u.piece = max(u.piece, least)
	}
	return u.take(resp, 0, false)
}

// ask asks how far a session is. One that is gone is opened anew.
func (u *upload) ask(ctx context.Context) error {
	resp, err := u.do(ctx, http.MethodGet, u.session, 0, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNoContent {
		err := answer(resp)
		if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			u.session = nil
			return nil
		}
		return err
	}
	resp.Body.Close()
	at := int64(0)
	if text := resp.Header.Get("Range"); text != "" {
		_, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
		n, err := strconv.ParseInt(last, 10, 64)
		if !ok || err != nil || n < 0 || n >= u.desc.Size {
			u.session = nil
			return nil
		}
		if at = n + 1; n == 0 { // "0-0" is what registries say of a session without a byte, too
			at = 0
		}
	}
	return u.take(resp, at, false)
}

func (u *upload) close(ctx context.Context) error {
	ctx, _, end := watched(ctx, 2*u.t.stall) // a registry digests all of it now
	defer end()
	to := *u.session
	q := to.Query()
	q.Set("digest", string(u.desc.Digest))
	to.RawQuery = q.Encode()
	resp, err := u.do(ctx, http.MethodPut, &to, 0, nil)
	if err != nil {
		return cause(ctx, err)
	}
	if resp.StatusCode != http.StatusCreated {
		return answer(resp)
	}
	resp.Body.Close()
	return nil
}

// do sends a request with n bytes of the blob.
func (u *upload) do(ctx context.Context, method string, to *url.URL, n int64, alive func()) (*http.Response, error) {
	body := func() (io.ReadCloser, error) {
		if n == 0 {
			return http.NoBody, nil
		}
		return io.NopCloser(&tellingReader{io.NewSectionReader(u.src, u.at, n), alive}), nil
	}
	first, _ := body()
	req, err := http.NewRequestWithContext(ctx, method, to.String(), first)
	if err != nil {
		return nil, err
	}
	req.GetBody, req.ContentLength = body, n
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.at, u.at+n-1))
	}
	return u.repo.Client.Do(req)
}

// take notes where a session goes on.
func (u *upload) take(resp *http.Response, at int64, moved bool) error {
	session, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) && u.session != nil {
		session, err = u.session, nil
	}
	if err != nil {
		return fmt.Errorf("%w: upload session without an address: %w", ErrInvalid, err)
	}
	if err := u.own(session); err != nil {
		return err
	}
	if at > u.counted {
		u.count.add(at-u.counted, moved)
		u.counted = at
	}
	if u.session, u.at, u.known = session, at, true; u.note != "" {
		// Without the note a later process begins anew, no more.
		if err := os.MkdirAll(filepath.Dir(u.note), 0o700); err == nil {
			_ = os.WriteFile(u.note, []byte(session.String()), 0o600)
		}
	}
	return nil
}

// own refuses a session elsewhere: requests carry credentials.
func (u *upload) own(session *url.URL) error {
	port := func(host, port, scheme string) string {
		if port == "" && scheme == "https" {
			return host + ":443"
		} else if port == "" {
			return host + ":80"
		}
		return host + ":" + port
	}
	scheme := "https"
	if u.repo.PlainHTTP {
		scheme = "http"
	}
	want, err := url.Parse(scheme + "://" + u.repo.Reference.Host())
	if err != nil || session.Scheme != scheme || port(session.Hostname(), session.Port(), scheme) != port(want.Hostname(), want.Port(), scheme) {
		return fmt.Errorf("%w: the registry has its upload session elsewhere, at %.100q", ErrInvalid, session.Host)
	}
	return nil
}

// answer is an answer that is no success as an error.
func answer(resp *http.Response) error {
	defer resp.Body.Close()
	e := &errcode.ErrorResponse{StatusCode: resp.StatusCode, Method: resp.Request.Method, URL: resp.Request.URL}
	var says struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&says) == nil {
		e.Errors = says.Errors
	}
	return e
}
