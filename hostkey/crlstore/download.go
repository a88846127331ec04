package crlstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/secexec/secexec/hostkey"
)

// Why a distribution point gave no CRL. Each error that wraps one names its
// URL.
var (
	ErrScheme      = errors.New("only http and https are supported")
	ErrUnreachable = errors.New("can't be reached")
	ErrTimeout     = errors.New("took too long")
	ErrStatus      = errors.New("refused")
	ErrTooLarge    = errors.New("answer is too large for a CRL")
	ErrNotCRL      = errors.New("answer is no CRL")
)

// maxRedirects is how often a distribution point may send on.
const maxRedirects = 5

// download gets the CRLs at a URL, and the bytes as they came. The content
// type does not count: servers send several, and the bytes tell.
func (s *Store) download(ctx context.Context, where string) ([]byte, []hostkey.CRL, error) {
	fail := func(reason error, detail string) ([]byte, []hostkey.CRL, error) {
		if detail != "" {
			detail = ": " + detail
		}
		return nil, nil, fmt.Errorf("distribution point %.200s %w%s", where, reason, detail)
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fail(ErrScheme, "")
	}
	limit := s.Timeout
	if limit == 0 {
		limit = Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := http.Client{}
	if s.Client != nil {
		client = *s.Client
	}
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
			return ErrScheme
		}
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return fail(ErrScheme, err.Error())
	}
	req.Header.Set("User-Agent", "secexec-crl")
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return fail(ErrTimeout, fmt.Sprintf("more than %v", limit))
	case err != nil:
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return fail(ErrUnreachable, err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(ErrStatus, resp.Status)
	}
	if resp.ContentLength > hostkey.MaxFileSize {
		return fail(ErrTooLarge, fmt.Sprintf("%d bytes", resp.ContentLength))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, hostkey.MaxFileSize+1))
	switch {
	case ctx.Err() != nil:
		return fail(ErrTimeout, fmt.Sprintf("more than %v", limit))
	case err != nil:
		return fail(ErrUnreachable, err.Error())
	case len(data) > hostkey.MaxFileSize:
		return fail(ErrTooLarge, "")
	}
	_, crls, err := hostkey.ParseFile(where, data)
	if err != nil || len(crls) == 0 {
		return fail(ErrNotCRL, resp.Header.Get("Content-Type"))
	}
	return data, crls, nil
}
