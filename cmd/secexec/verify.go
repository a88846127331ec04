package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/owner"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
)

// Exit statuses of verify beside 0, 1 and 2.
const (
	exitNoAnswer  = 3 // the guest gives no report
	exitUnproved  = 4 // a report that proves nothing: another key, another nonce, no report at all
	exitPrevious  = 5 // the owner's, but the image of the build before
	exitOther     = 6 // another image or root than was to be
	exitUnready   = 7 // proved, but not ready yet
	maxAboutBytes = 64 << 10
)

var (
	errPrevious = errors.New("it runs the image of the build before: its report is signed with the previous identity key")
	errOther    = errors.New("not what it was to be")
	errUnready  = errors.New("its report does not say that it is ready")
)

// verifyStatus is the exit status for an error of identityFlags.verify.
func verifyStatus(err error) int {
	var f *fault.Error
	switch {
	case errors.Is(err, errPrevious):
		return exitPrevious
	case errors.Is(err, errOther):
		return exitOther
	case errors.Is(err, errUnready):
		return exitUnready
	case errors.Is(err, report.ErrSignature), errors.Is(err, report.ErrNonce), errors.Is(err, report.ErrMalformed), errors.Is(err, report.ErrProfile):
		return exitUnproved
	case errors.As(err, &f) && f.Code == fault.NoAnswer:
		return exitNoAnswer
	}
	return statusOf(err)
}

// identityFlags say which key a readiness report must be signed with, and what
// it must say.
type identityFlags struct {
	path            string
	imageID, rootID string // hex; "": about.json's beside the key, if it is there
}

func (f *identityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "identity", "", "identity.pub from the owner's secrets (default: the bundle's own key)")
}

// verdict is what a verified report says.
type verdict struct {
	ImageID  string `json:"image_id"`
	BootID   string `json:"boot_id"`
	RootID   string `json:"root_id"`
	RootMode string `json:"root_mode"` // crypt, crypt-integrity, verity
	ReadyAt  string `json:"ready_at"`  // handover, notify
	Ready    bool   `json:"ready"`
	By       string `json:"by"` // "owner": identity.pub; "bundle": the key in the manifest
}

func (v *verdict) words() string {
	if v.By == "owner" {
		return fmt.Sprintf("signed by image %s with the owner's identity key, boot %s", v.ImageID, v.BootID)
	}
	return fmt.Sprintf("signed by image %s with the key that the bundle names, boot %s; the owner verifies with --identity", v.ImageID, v.BootID)
}

// proved lists what the report proves.
func (v *verdict) proved() []string {
	out := []string{
		"a guest answers now that firmware unpacked from image " + v.ImageID,
		fmt.Sprintf("its root volume %s is mapped with the sealed key, mode %s", v.RootID, v.RootMode),
	}
	if v.RootMode == "verity" {
		out = append(out, "each block of the root that it reads is the one that was sealed")
	}
	switch {
	case v.Ready && v.ReadyAt == "notify":
		out = append(out, "its workload said READY=1")
	case v.Ready:
		out = append(out, "its workload was started")
	}
	return out
}

// unproved lists what it does not prove.
func (v *verdict) unproved(g *hostagentv1.Guest) []string {
	var out []string
	if !g.Protected {
		out = append(out, fmt.Sprintf("anything against whoever runs this host, who can read all of it: platform %s protects nothing", g.Platform))
	}
	if v.By != "owner" {
		out = append(out, "that the image is the owner's: the key came with the bundle")
	}
	switch v.RootMode {
	case "crypt":
		out = append(out, "that no sector of the root was altered or is an older one: mode crypt does not detect it")
	case "crypt-integrity":
		out = append(out, "that no sector of the root is an older one: mode crypt-integrity detects altered sectors only")
	}
	return append(out, "which of several running copies of the image answers", "that its workload is well by now")
}

// key reads the key that reports are verified with.
func (f identityFlags) key(g *hostagentv1.Guest) (key ed25519.PublicKey, by string, err error) {
	if f.path == "" {
		key, err = owner.ParseIdentity([]byte(g.Identity))
		by = "bundle"
	} else {
		key, err = readIdentity(f.path)
		by = "owner"
	}
	if err != nil {
		return nil, "", fmt.Errorf("read identity: %w", err)
	}
	return key, by, nil
}

func readIdentity(path string) (ed25519.PublicKey, error) {
	text, err := readSmall(path, 4<<10)
	if err != nil {
		return nil, err
	}
	return owner.ParseIdentity(text)
}

// wanted is what image and root are to be, "" for any.
func (f identityFlags) wanted() (imageID, rootID string, err error) {
	imageID, rootID = f.imageID, f.rootID
	if f.path == "" || imageID != "" && rootID != "" {
		return imageID, rootID, nil
	}
	path := filepath.Join(filepath.Dir(f.path), owner.AboutFile)
	text, err := readSmall(path, maxAboutBytes)
	if errors.Is(err, os.ErrNotExist) {
		return imageID, rootID, nil // the owner keeps the key alone
	}
	var about owner.About
	if err == nil {
		err = json.Unmarshal(text, &about)
	}
	if err != nil {
		return "", "", fmt.Errorf("read %s: %w", path, err)
	}
	if imageID == "" {
		imageID = about.ImageID
	}
	if rootID == "" {
		rootID = about.RootID
	}
	return imageID, rootID, nil
}

// verify asks the guest over a fresh nonce and checks its report. After
// errPrevious, errOther and errUnready there is a verdict all the same: the
// report is genuine.
func (f identityFlags) verify(ctx context.Context, c *client.Client, g *hostagentv1.Guest) (*verdict, error) {
	key, by, err := f.key(g)
	if err != nil {
		return nil, err
	}
	imageID, rootID, err := f.wanted()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, readiness.NonceSize)
	_, _ = rand.Read(nonce)
	raw, err := c.Challenge(ctx, g.Name, nonce)
	if err != nil {
		return nil, err
	}
	claims, err := report.Verify(key, nonce, raw)
	var previous error
	if errors.Is(err, report.ErrSignature) && f.path != "" {
		// A guest that still runs the image of the build before is the owner's too.
		if old, e := readIdentity(filepath.Join(filepath.Dir(f.path), owner.PreviousDir, owner.IdentityPublic)); e == nil {
			if oldClaims, e := report.Verify(old, nonce, raw); e == nil {
				claims, err, previous = oldClaims, nil, errPrevious
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("verify guest %s: %w", g.Name, err)
	}
	v := &verdict{
		ImageID: hex.EncodeToString(claims.ImageID), BootID: hex.EncodeToString(claims.BootID), RootID: hex.EncodeToString(claims.RootID),
		RootMode: claims.RootMode, ReadyAt: claims.ReadyAt, Ready: claims.Passed(readiness.StageReady), By: by,
	}
	switch {
	case previous != nil:
		err = previous
	case imageID != "" && v.ImageID != imageID:
		err = fmt.Errorf("%w: image %s, wants %s", errOther, v.ImageID, imageID)
	case rootID != "" && v.RootID != rootID:
		err = fmt.Errorf("%w: root %s, wants %s", errOther, v.RootID, rootID)
	case !v.Ready:
		err = errUnready
	default:
		return v, nil
	}
	return v, fmt.Errorf("verify guest %s: %w", g.Name, err)
}

// show prints a verdict and what it is worth.
func (v *verdict) show(out io.Writer, g *hostagentv1.Guest, err error) error {
	word := "verified"
	if err != nil {
		word = "not verified, but"
	}
	fmt.Fprintf(out, "%s: %s: %s\n", g.Name, word, v.words())
	var pairs []string
	for _, p := range v.proved() {
		pairs = append(pairs, "proved", p)
	}
	for _, p := range v.unproved(g) {
		pairs = append(pairs, "not proved", p)
	}
	return term.Fields(out, pairs...)
}

func newVerify() *cobra.Command {
	var agent agentFlags
	var check identityFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify GUEST --identity FILE",
		Short: "Ask a guest for a signed readiness report over a fresh nonce, and check it",
		Long: `Verify proves that a guest answers now that was unpacked from the owner's own
image, which only firmware holding a designated host key can do, and says what
more the report proves and what not. With about.json beside identity.pub, image
and root must be those of that build.

Exit status: 0 proved and ready; 1 the guest could not be asked; 2 usage; 3 it gives
no report; 4 a report that proves nothing, such as one of another key; 5 proved, but
of the image of the build before; 6 proved, but another image or root than was to
be; 7 proved, but not ready yet.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, id := range map[string]string{"image-id": check.imageID, "root-id": check.rootID} {
				if raw, err := hex.DecodeString(id); id != "" && (err != nil || len(raw) != readiness.IDSize || hex.EncodeToString(raw) != id) {
					return usageError{fmt.Errorf("--%s %.40q is not %d hex digits", flag, id, 2*readiness.IDSize)}
				}
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				g, err := c.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				v, err := check.verify(cmd.Context(), c, g)
				if err != nil && cmd.Context().Err() != nil {
					return err
				}
				switch {
				case asJSON:
					if e := printJSON(cmd, verdictJSON(g, v, err)); e != nil {
						return e
					}
				case v != nil:
					if e := v.show(cmd.OutOrStdout(), g, err); e != nil {
						return e
					}
				}
				if err == nil {
					return nil
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "secexec: %s\n", term.Printable(err.Error()))
				return statusError(verifyStatus(err))
			})
		},
	}
	check.add(cmd)
	cmd.Flags().StringVar(&check.imageID, "image-id", "", "`ID` that the image must have (default: about.json's beside identity.pub)")
	cmd.Flags().StringVar(&check.rootID, "root-id", "", "`ID` that the root volume must have (default: about.json's beside identity.pub)")
	agent.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// verdictJSON is what verify --json prints; v is nil where nothing is proved.
func verdictJSON(g *hostagentv1.Guest, v *verdict, err error) any {
	out := struct {
		Guest    string `json:"guest"`
		Verified bool   `json:"verified"`
		Status   int    `json:"status"` // verify's exit status
		Error    string `json:"error,omitempty"`
		*verdict
		Proved   []string `json:"proved"`
		Unproved []string `json:"not_proved"`
	}{Guest: g.Name, Verified: err == nil, Status: verifyStatus(err), verdict: v, Proved: []string{}, Unproved: []string{}}
	if err != nil {
		out.Error = err.Error()
	}
	if v != nil {
		out.Proved, out.Unproved = v.proved(), v.unproved(g)
	}
	return out
}
