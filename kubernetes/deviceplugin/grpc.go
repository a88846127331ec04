package deviceplugin

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// gRPC is an HTTP/2 POST whose bodies are messages behind a byte and a length,
// and whose outcome stands in the trailers. net/http speaks HTTP/2.
// Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

// Codes of outcomes that are used here.
const (
	codeOK                 = 0
	codeInvalidArgument    = 3
	codeFailedPrecondition = 9
	codeUnimplemented      = 12
)

// maxMessage bounds a message that comes in, in bytes. The largest names all
// devices of a node.
const maxMessage = 1 << 20

const contentType = "application/grpc"

// plaintext is HTTP/2 without TLS, from the first byte on.
func plaintext() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// frame is a message as it travels.
func frame(message []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(b, message...)
}

// readMessage reads a body that holds one message and no more.
func readMessage(r io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	switch {
	case head[0] != 0:
		return nil, fmt.Errorf("%w: it is compressed", errMessage)
	case size > maxMessage:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errMessage, size, maxMessage)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	if n, err := io.ReadFull(r, head[:1]); n > 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one", errMessage)
	}
	return message, nil
}

// outcome ends an answer.
func outcome(w http.ResponseWriter, code int, words string) {
	h := w.Header()
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	if words != "" {
		h.Set(http.TrailerPrefix+"Grpc-Message", url.PathEscape(words)) // percent-encoded, as gRPC has it
	}
}

// invoke makes a call with one message each way over a unix socket.
func invoke(ctx context.Context, socket, method string, request []byte) ([]byte, error) {
	t := &http.Transport{
		Protocols: plaintext(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	defer t.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(frame(request)))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"Content-Type": {contentType}, "Te": {"trailers"}, "User-Agent": {"secexec"}}
	answer, err := t.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), contentType) {
		return nil, fmt.Errorf("%s is not answered by gRPC: HTTP status %d", method, answer.StatusCode)
	}
	// An outcome without a message may stand in the headers, and is all there is.
	if answer.Header.Get("Grpc-Status") != "" {
		return nil, failure(answer.Header)
	}
	message, err := readMessage(answer.Body)
	if _, e := io.Copy(io.Discard, io.LimitReader(answer.Body, maxMessage)); e != nil && err == nil {
		err = e
	}
	if e := failure(answer.Trailer); e != nil {
		return nil, e
	}
	return message, err
}

// failure is the outcome that headers or trailers tell.
func failure(h http.Header) error {
	code := h.Get("Grpc-Status")
	if code == strconv.Itoa(codeOK) {
		return nil
	}
	words, err := url.PathUnescape(h.Get("Grpc-Message"))
	if err != nil {
		words = h.Get("Grpc-Message")
	}
	return fmt.Errorf("refused with gRPC status %.10q: %.500s", code, words)
}
