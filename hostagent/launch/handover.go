package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A handover is what a unit's process is told to become: hostagent sends it, with
// the descriptors, over a socket pair whose other end is the unit's standard
// input. So argument vectors pass none of systemd's quoting, and no QEMU runs
// that hostagent did not send off after the unit was there.
//
//	hostagent                         systemd           unit's process
//	    | StartTransientUnit, stdin ---> | fork, confine ---> | hostagent exec
//	    |                                                     |
//	    | one packet: JSON, [report pipe, log, files...] ---> |
//	    | <--- report: "1 PID INVOCATION\n"                   | descriptors in place
//	    | <--- report ends: it runs                           | execve (close-on-exec)
//	    | <--- or a reason, and its end                       | execve failed
//
// A report that ends before its first line says that the unit failed.
type handover struct {
	Version int      `json:"version"`
	Program string   `json:"program"` // absolute path
	Argv    []string `json:"argv"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Files   int      `json:"files"` // descriptors from 3 on
}

// Bounds of the handover. SCM_RIGHTS carries 253 descriptors (SCM_MAX_FD).
const (
	handoverVersion = 1
	maxHandover     = 96 << 10
	maxFiles        = 240
	maxReport       = 4 << 10
)

// ownFiles are the descriptors before those from 3 on: report pipe and log.
const ownFiles = 2

func (h *handover) marshal() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(h)
	if err == nil && len(text) > maxHandover {
		err = fmt.Errorf("hand over %d bytes of arguments, at most %d", len(text), maxHandover)
	}
	return text, err
}

func parseHandover(text []byte) (*handover, error) {
	if len(text) > maxHandover {
		return nil, fmt.Errorf("take over: more than %d bytes", maxHandover)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if version.Version != handoverVersion {
		return nil, fmt.Errorf("take over: message of version %d, this program speaks %d: hostagent was replaced while it ran, restart it", version.Version, handoverVersion)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var h handover
	if err := d.Decode(&h); err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("take over: text after the message")
	}
	return &h, h.check()
}

func (h *handover) check() error {
	nul := func(s string) bool { return strings.ContainsRune(s, 0) }
	switch {
	case h.Version != handoverVersion:
		return fmt.Errorf("hand over: version %d", h.Version)
	case !strings.HasPrefix(h.Program, "/"):
		return fmt.Errorf("hand over: program %q is no absolute path", h.Program)
	case len(h.Argv) == 0:
		return errors.New("hand over: no arguments")
	case !strings.HasPrefix(h.Dir, "/"):
		return fmt.Errorf("hand over: folder %q is no absolute path", h.Dir)
	case h.Files < 0 || h.Files > maxFiles:
		return fmt.Errorf("hand over: %d files, at most %d", h.Files, maxFiles)
	case nul(h.Program) || nul(h.Dir) || slices.ContainsFunc(h.Argv, nul) || slices.ContainsFunc(h.Env, nul):
		return errors.New("hand over: an argument holds a NUL")
	}
	return nil
}

// report is the first line of the report pipe: who runs in the unit.
func report(pid int, invocation string) []byte {
	return fmt.Appendf(nil, "%d %d %s\n", handoverVersion, pid, invocation)
}

// parseReport reads all that came over the report pipe. A report that ends before
// its first line is io.ErrUnexpectedEOF.
func parseReport(text []byte) (pid int, invocation string, err error) {
	if len(text) > maxReport {
		return 0, "", fmt.Errorf("read report: more than %d bytes", maxReport)
	}
	line, reason, ended := strings.Cut(string(text), "\n")
	if !ended {
		if line != "" {
			return 0, "", errors.New(clean(line)) // it could not even begin
		}
		return 0, "", io.ErrUnexpectedEOF
	}
	if reason != "" {
		return 0, "", errors.New(clean(reason))
	}
	fields := strings.Split(line, " ")
	if len(fields) != 3 || fields[0] != strconv.Itoa(handoverVersion) {
		return 0, "", fmt.Errorf("read report: %q", clean(line))
	}
	pid, err = strconv.Atoi(fields[1])
	if err != nil || pid <= 1 || strconv.Itoa(pid) != fields[1] {
		return 0, "", fmt.Errorf("read report: process %q", clean(fields[1]))
	}
	if !isInvocation(fields[2]) {
		return 0, "", fmt.Errorf("read report: invocation %q", clean(fields[2]))
	}
	return pid, fields[2], nil
}

// isInvocation tells whether s is an invocation ID: 32 lower-case hex digits.
func isInvocation(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// clean makes foreign text fit for one line of a message.
func clean(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
