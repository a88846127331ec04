package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
)

// challenger asks a guest for its signed report, as hostagent's client does.
type challenger interface {
	Challenge(ctx context.Context, guest string, nonce []byte) ([]byte, error)
}

// verify asks a pod's guest for a report over a fresh nonce and says what the
// pod's condition is by it. The key is the one that the pod's annotation names,
// and otherwise the one that came with the bundle.
func verify(ctx context.Context, c challenger, p *pod, g *hostagentv1.Guest) condition {
	not := func(reason, format string, args ...any) condition {
		return condition{Status: "False", Reason: reason, Message: fmt.Sprintf("guest %s: ", g.Name) + fmt.Sprintf(format, args...)}
	}
	annotations := p.Metadata.Annotations
	by := "the key that the pod's annotation names"
	if annotations[kubernetes.AnnotationIdentity] == "" {
		by = "the key that its bundle names"
	}
	key, err := hex.DecodeString(cmp.Or(annotations[kubernetes.AnnotationIdentity], g.Identity))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return not(reasonBadReference, "annotation %s is not an Ed25519 public key in hex", kubernetes.AnnotationIdentity)
	}
	nonce := make([]byte, readiness.NonceSize)
	_, _ = rand.Read(nonce)
	raw, err := c.Challenge(ctx, g.Name, nonce)
	if err != nil {
		return not(reasonNoReport, "%v", err)
	}
	claims, err := report.Verify(ed25519.PublicKey(key), nonce, raw)
	if err != nil {
		return not(reasonNotVerified, "%v", err)
	}
	image := hex.EncodeToString(claims.ImageID)
	if want := annotations[kubernetes.AnnotationImageID]; want != "" && want != image {
		return not(reasonNotVerified, "it runs image %s, annotation %s wants %.40q", image, kubernetes.AnnotationImageID, want)
	}
	if !claims.Passed(readiness.StageReady) {
		return not(reasonNotReady, "its report does not say that it is ready")
	}
	return condition{
		Status: "True", Reason: reasonVerified,
		Message: fmt.Sprintf("guest %s: report signed by image %s with %s, boot %x", g.Name, image, by, claims.BootID),
	}
}
