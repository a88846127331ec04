package platform

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/secexec/secexec/secret"
)

// decide is the ultravisor itself.
func decide(ctx context.Context, gdb net.Conn, ram []byte, hostKey secret.Bytes, log *slog.Logger) error {
	return errors.New("the emulated ultravisor is not part of this build")
}
