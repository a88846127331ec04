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

// decide is the ultravisor itself, with the emulated host's key, for an image
// that lies in the guest's memory.
func decide(ctx context.Context, gdb net.Conn, ram []byte, hostKey secret.Bytes, log *slog.Logger) error {
	return with(hostKey, func(u *ultravisor.Ultravisor) error { return u.Boot(ctx, gdb, ram, log) })
}

// decideDisk is decide for an image that firmware loads from a disk.
func decideDisk(ctx context.Context, gdb net.Conn, ram []byte, hostKey secret.Bytes, log *slog.Logger) error {
	return with(hostKey, func(u *ultravisor.Ultravisor) error { return u.BootDisk(ctx, gdb, ram, log) })
}

func with(hostKey secret.Bytes, boot func(*ultravisor.Ultravisor) error) error {
	key, err := hostkey.ParsePrivate(hostKey)
	if err != nil {
		return fmt.Errorf("read host key: %w", err)
	}
	err = boot(ultravisor.New(key))
	var refusal *ultravisor.Refusal
	if errors.As(err, &refusal) {
		return &RefusedError{Command: uint16(refusal.Command), RC: refusal.RC, RRC: refusal.RRC, Words: refusal.Words}
	}
	return err
}
