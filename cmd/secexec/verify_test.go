package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness/report"
)

// What is proved and what not depends on the root's mode, on whose key it was and
// on the platform.
func TestVerdictWords(t *testing.T) {
	t.Parallel()
	safe, bare := &hostagentv1.Guest{Protected: true, Platform: "se"}, &hostagentv1.Guest{Platform: "emulated"}
	for _, row := range []struct {
		v                *verdict
		g                *hostagentv1.Guest
		proved, unproved string
		no               string // in neither
	}{
		{&verdict{RootMode: "crypt", By: "owner", Ready: true, ReadyAt: "handover"}, safe, "workload was started", "mode crypt does not detect", "protects nothing"},
		{&verdict{RootMode: "crypt-integrity", By: "owner", Ready: true, ReadyAt: "notify"}, safe, "said READY=1", "detects altered sectors only", "was started"},
		{&verdict{RootMode: "verity", By: "owner"}, safe, "is the one that was sealed", "several running copies", "mode crypt"},
		{&verdict{RootMode: "verity", By: "bundle"}, bare, "answers now", "key came with the bundle", "READY=1"},
		{&verdict{RootMode: "verity", By: "owner"}, bare, "answers now", "platform emulated protects nothing", "with the bundle"},
	} {
		proved, unproved := strings.Join(row.v.proved(), "\n"), strings.Join(row.v.unproved(row.g), "\n")
		if !strings.Contains(proved, row.proved) || !strings.Contains(unproved, row.unproved) || strings.Contains(proved+unproved, row.no) {
			t.Errorf("%+v proves %q, not %q", row.v, proved, unproved)
		}
	}
}

func TestVerifyStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {os.ErrNotExist, 1}, {usageError{os.ErrInvalid}, 2}, {fault.New(fault.NoAnswer, "no"), 3}, {fault.New(fault.NoGuest, "no"), 1},
		{report.ErrSignature, 4}, {report.ErrNonce, 4}, {report.ErrMalformed, 4}, {report.ErrProfile, 4}, {errPrevious, 5}, {errOther, 6}, {errUnready, 7},
	} {
		if row.err != nil {
			row.err = fmt.Errorf("verify guest g: %w", row.err)
		}
		if got := verifyStatus(row.err); got != row.want {
			t.Errorf("%v: %d, wants %d", row.err, got, row.want)
		}
		text, err := json.Marshal(verdictJSON(&hostagentv1.Guest{Name: "g"}, nil, row.err))
		if err != nil || !strings.Contains(string(text), fmt.Sprintf(`"verified":%v,"status":%d`, row.err == nil, row.want)) {
			t.Errorf("%v: %s %v", row.err, text, err)
		}
	}
}

// Image and root are those of about.json beside the key, where it is, and flags go
// before it.
func TestVerifyWants(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := identityFlags{path: filepath.Join(dir, "identity.pub"), rootID: "cc"}
	if image, root, err := f.wanted(); image != "" || root != "cc" || err != nil {
		t.Errorf("without about.json: %q %q %v", image, root, err)
	}
	about := filepath.Join(dir, "about.json")
	if err := os.WriteFile(about, []byte(`{"image_id": "aa", "root_id": "bb"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if image, root, err := f.wanted(); image != "aa" || root != "cc" || err != nil {
		t.Errorf("with about.json: %q %q %v", image, root, err)
	}
	if err := os.WriteFile(about, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.wanted(); err == nil {
		t.Error("a damaged about.json passes")
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)).Public().(ed25519.PublicKey)
	if err := os.WriteFile(f.path, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, by, err := f.key(nil); err != nil || by != "owner" || !got.Equal(key) {
		t.Errorf("key: %x %s %v", got, by, err)
	}
}
