package metrics

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// ErrAddress is wrapped by every error about where to serve metrics.
var ErrAddress = errors.New("invalid address of metrics")

// Address takes apart where to serve metrics: "" is nowhere, unix:/PATH a
// socket, IP:PORT a port of this node. Whoever reaches it learns the guests'
// names, so that an address beyond loopback has to be wanted.
func Address(text string, remote bool) (network, address string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return "", "", fmt.Errorf("%w: %q is no absolute path", ErrAddress, path)
		}
		return "unix", path, nil
	}
	if text == "" {
		return "", "", nil
	}
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("%w: %q is neither unix:/PATH nor IP:PORT", ErrAddress, text)
	case !at.Addr().IsLoopback() && !remote:
		return "", "", fmt.Errorf("%w: %s can be reached from elsewhere, without any check of who asks: use 127.0.0.1, or set metrics_remote", ErrAddress, text)
	}
	return "tcp", at.String(), nil
}
