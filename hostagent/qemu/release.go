package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// Errors that callers branch on.
var (
	// ErrMissing says that there is no QEMU program.
	ErrMissing = errors.New("QEMU for s390x is missing: install the Debian package qemu-system-misc (qemu-kvm or qemu-system-s390x elsewhere), or name the program with --qemu")
	// ErrTooOld says that QEMU is older than 7.2.
	ErrTooOld = errors.New("QEMU is too old")
)

// The oldest release that the argument vector and the tests were made for:
// that of Debian 12.
const (
	minMajor = 7
	minMinor = 2
)

// Release is a QEMU program's release.
type Release struct {
	Major, Minor, Micro int
	Package             string // packager's addition, such as "Debian 1:7.2+dfsg-7+deb12u18"; may be empty

	// Sandbox tells whether the program accepts our -sandbox options. Only
	// Version fills it in.
	Sandbox bool
}

// String is "7.2.22".
func (r Release) String() string { return fmt.Sprintf("%d.%d.%d", r.Major, r.Minor, r.Micro) }

// Check returns an error that wraps ErrTooOld for a release before 7.2.
func (r Release) Check() error {
	if r.Major < minMajor || r.Major == minMajor && r.Minor < minMinor {
		return fmt.Errorf("%w: this is %s, hostagent needs %d.%d or later", ErrTooOld, r, minMajor, minMinor)
	}
	return nil
}

// Version asks a QEMU program for its release and refuses one that is missing
// or too old. A program that has answered is not asked again until its file
// changes.
func Version(ctx context.Context, binary string) (Release, error) {
	return versions.get(binary, func() (Release, error) { return version(ctx, binary) })
}

var versions answers[Release]

func version(ctx context.Context, binary string) (Release, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Options are read in order: without seccomp QEMU stops at -sandbox.
	out, err := versionOf(ctx, binary, append(sandboxArgs(), "-version")...)
	sandbox := err == nil
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out, err = versionOf(ctx, binary, "-version")
	}
	if err != nil {
		return Release{}, err
	}
	r, err := parseVersion(out)
	if err != nil {
		return Release{}, fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	r.Sandbox = sandbox
	return r, r.Check()
}

func versionOf(ctx context.Context, binary string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	out := &firstBytes{limit: 4096}
	cmd.Stdout = out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (looked for %s)", ErrMissing, binary)
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("ask %s for its version: %w", binary, context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	return out.Bytes(), nil
}

var versionForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^QEMU emulator version ([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?: \(([^()\r\n]*)\))?\r?\n`)
})

// parseVersion reads what -version prints.
func parseVersion(out []byte) (Release, error) {
	m := versionForm().FindSubmatch(out)
	if m == nil {
		first, _, _ := bytes.Cut(out, []byte("\n"))
		return Release{}, fmt.Errorf("%q is not the answer of a QEMU", clip(string(first)))
	}
	var r Release
	for i, n := range []*int{&r.Major, &r.Minor, &r.Micro} {
		*n, _ = strconv.Atoi(string(m[i+1])) // at most four digits
	}
	r.Package = clip(string(m[4]))
	return r, nil
}
