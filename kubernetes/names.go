// Package kubernetes is how sealed guests and the nodes that can start them
// appear to Kubernetes: names of labels, annotations and the extended resource,
// and what follows from a bundle's key slots for the scheduler.
//
// A guest starts only on a machine that holds one of the host keys its image was
// sealed for. Each key is a label of the node, so the scheduler that is there
// finds the machine; firmware makes the same decision again and for good. Labels
// are the provider's word. Nothing that an owner trusts rests on them.
package kubernetes

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Labels of nodes. The node agent sets them and takes them away.
const (
	// LabelSE is "true" on a node where guests can start now under Secure Execution.
	LabelSE = "secexec.dev/se"
	// LabelPlatform is the platform on which guests can start now: PlatformSE or
	// PlatformEmulated.
	LabelPlatform = "secexec.dev/platform"
	// LabelVersion is hostagent's version.
	LabelVersion = "secexec.dev/version"
	// LabelHostKey and the first hex digits of a host key's hash are the key of a
	// label that is "true" on a node with this key.
	LabelHostKey = "secexec.dev/hostkey-"
	// True is the value of labels that are there or not.
	True = "true"
)

// Platforms, as hostagent names them.
const (
	PlatformSE       = "se"
	PlatformEmulated = "emulated"
)

// Names of other things.
const (
	ResourceGuest     = "secexec.dev/guest"        // extended resource: a place for one guest
	RuntimeClass      = "secexec"                  // its name, and its handler in containerd's configuration
	RuntimeType       = "io.containerd.secexec.v2" // of containerd's runtime: containerd-shim-secexec-v2
	ConditionVerified = "secexec.dev/verified"     // a pod's condition: its signed report was verified
)

// Annotations of images and pods.
const (
	AnnotationIdentity = "dev.secexec.identity" // Ed25519 public key that checks readiness reports, hex
	AnnotationImageID  = "dev.secexec.image-id" // image identity as in readiness reports, hex
)

// hashDigits is how much of a host key's hash a label has: Kubernetes takes 63
// characters behind the slash, all 64 digits would not fit. 160 bits tell the
// world's machines apart; who makes two keys that share them makes a guest go to
// a machine whose firmware refuses it.
const hashDigits = 40

// ErrHash says that a text is no host key's hash.
var ErrHash = errors.New("not the hash of a host key")

// HostKeyLabel is the key of the label for a host key's hash, 64 lower-case hex
// digits as in bundle.json.
func HostKeyLabel(hash string) (string, error) {
	if _, err := hex.DecodeString(hash); err != nil || len(hash) != 64 || hash != strings.ToLower(hash) {
		return "", fmt.Errorf("%.80q is %w: wants 64 lower-case hex digits", hash, ErrHash)
	}
	return LabelHostKey + hash[:hashDigits], nil
}
