package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Bounds of a scrape. Prometheus's own deadline is 10 s unless told otherwise.
const (
	maxRequest   = 8 << 10 // bytes of a request's line and headers
	maxScrapes   = 8       // at a time
	scrapeTime   = 10 * time.Second
	maxOneHeader = 4 << 10
)

// errRequest says that what was read is no request that we answer.
var errRequest = errors.New("invalid HTTP request")

// Serve answers GET /metrics on a listener until the context is done. It
// speaks as much of HTTP/1.1 as a scrape needs: one request a connection, no
// body, no compression.
func (r *Registry) Serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	places := make(chan struct{}, maxScrapes)
	var scrapes sync.WaitGroup
	defer scrapes.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors: they come back
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close() // Prometheus asks again
			continue
		}
		scrapes.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(scrapeTime))
			cut := context.AfterFunc(ctx, func() { conn.Close() })
			defer cut()
			r.answer(conn)
		})
	}
}

// answer reads one request and answers it.
func (r *Registry) answer(conn io.ReadWriter) {
	method, path, err := readRequest(conn)
	status, body := "200 OK", []byte(nil)
	switch {
	case err != nil:
		status = "400 Bad Request"
	case method != "GET" && method != "HEAD":
		status = "405 Method Not Allowed"
	case path != "/metrics":
		status = "404 Not Found"
	default:
		body = r.Text()
	}
	kind := ContentType
	if body == nil {
		kind, body = "text/plain; charset=utf-8", []byte(status+"\n")
	}
	extra := ""
	if strings.HasPrefix(status, "405") {
		extra = "Allow: GET, HEAD\r\n"
	}
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n", status, kind, len(body), extra)
	if method == "HEAD" {
		body = nil
	}
	_, _ = conn.Write(append([]byte(head), body...))
}

// readRequest reads up to the end of the headers. Of the request line it wants
// the three words of HTTP/1.x; headers say nothing that matters here.
func readRequest(conn io.Reader) (method, path string, err error) {
	in := bufio.NewReaderSize(io.LimitReader(conn, maxRequest), maxOneHeader)
	for first := true; ; first = false {
		text, err := in.ReadSlice('\n')
		if err != nil {
			return "", "", fmt.Errorf("%w: %w", errRequest, err)
		}
		line := strings.TrimRight(string(text), "\r\n")
		switch {
		case first:
			words := strings.Split(line, " ")
			if len(words) != 3 || !strings.HasPrefix(words[2], "HTTP/1.") {
				return "", "", fmt.Errorf("%w: request line", errRequest)
			}
			method = words[0]
			path, _, _ = strings.Cut(words[1], "?")
		case line == "":
			return method, path, nil
		case !strings.Contains(line, ":"):
			return "", "", fmt.Errorf("%w: header", errRequest)
		}
	}
}
