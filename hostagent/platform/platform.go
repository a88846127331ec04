// Package platform is what differs between a machine with Secure Execution
// ([SE]) and an emulation of it ([Emulated]): whether the node can run guests,
// which host keys it has, a few QEMU options, and how a guest that QEMU has
// loaded gets past its ultravisor. Everything else is the same on both.
package platform

import (
	"context"
	"errors"
	"log/slog"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Names of the platforms, as flags, API and lists show them.
const (
	NameSE       = "se"
	NameEmulated = "emulated"
)

// Platform is one way to run SE guests.
type Platform interface {
	// Name is NameSE or NameEmulated.
	Name() string

	// Protected tells whether guests are protected from this machine at all.
	Protected() bool

	// Check reports why this node cannot run guests on the platform.
	Check(ctx context.Context) error

	// HostKeyHashes returns the hashes of the host keys that open key slots
	// here: SHA-256 over the coordinates of the public key. The error wraps
	// ErrHashesUnknown where the node cannot tell; firmware decides then.
	HostKeyHashes() ([][32]byte, error)

	// Limits are what the ultravisor allows, as far as the node tells.
	Limits() (Limits, error)

	// Configure sets the platform's part of a QEMU configuration.
	Configure(cfg *qemu.Config)

	// Boot lets a guest that QEMU has loaded and stopped go on. On the emulated
	// platform it returns when the ultravisor has decided: nil, or an error
	// that wraps a *RefusedError. On SE it returns as soon as QEMU runs; a
	// refusal by firmware shows in the console and ends QEMU.
	Boot(ctx context.Context, spec BootSpec) error
}

// BootSpec is what Boot works on.
type BootSpec struct {
	Config  *qemu.Config  // as configured by the same platform
	Monitor *qemu.Monitor // connected to the stopped guest
	Log     *slog.Logger  // nil: no log
}

// Errors that callers branch on.
var (
	// ErrNoSecureExecution says that this machine has no usable ultravisor.
	ErrNoSecureExecution = errors.New("no Secure Execution on this node")
	// ErrHashesUnknown says that the node does not tell its host key hashes.
	ErrHashesUnknown = errors.New("host key hashes unknown")
	// ErrSENode says that the emulation is refused because this node protects
	// guests for real.
	ErrSENode = errors.New("this node has Secure Execution: the emulated platform, which protects nothing, is refused")
)
