package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/ultravisor"
)

// decide is the ultravisor itself, with the emulated host's key.
func decide(ctx context.Context, gdb net.Conn, ram []byte, hostKey secret.Bytes, log *slog.Logger) error {
	key, err := hostkey.ParsePrivate(hostKey)
	if err != nil {
		return fmt.Errorf("read host key: %w", err)
	}
	err = ultravisor.New(key).Boot(ctx, gdb, ultravisor.RAM(ram), log)
	var refusal *ultravisor.Refusal
	if errors.As(err, &refusal) {
		return &RefusedError{Command: uint16(refusal.Command), RC: refusal.RC, RRC: refusal.RRC, Words: refusal.Words}
	}
	return err
}
