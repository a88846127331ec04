package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Capabilities are what a QEMU program can do for Secure Execution on this
// machine.
type Capabilities struct {
	Release Release // with Sandbox
	// PVGuest tells whether the program has the object s390-pv-guest.
	PVGuest bool
	// Unpack tells whether the CPU model that guests get has the feature unpack,
	// without which no guest can turn secure. KVM decides; under TCG it is false.
	Unpack bool
}

// probeTimeout bounds a probe; it takes 20 ms.
const probeTimeout = 10 * time.Second

// maxProbe bounds what a program may answer. QEMU 10's answers have 60 KiB.
const maxProbe = 4 << 20

// ErrNoSecureGuests says that a QEMU program can run no secure guest here.
var ErrNoSecureGuests = errors.New("this QEMU can't run secure guests here")

// CheckSecure reports why a QEMU program can run no secure guest. A program that
// could is not asked again until its file changes: the kernel decides at boot.
func CheckSecure(ctx context.Context, binary string) error {
	_, err := secure.get(binary, func() (Capabilities, error) {
		c, err := Probe(ctx, binary, "kvm")
		switch {
		case err != nil:
		case !c.PVGuest:
			err = fmt.Errorf("%w: %s has no object s390-pv-guest", ErrNoSecureGuests, binary)
		case !c.Unpack:
			err = fmt.Errorf("%w: KVM's CPU lacks the feature unpack", ErrNoSecureGuests)
		}
		return c, err
	})
	return err
}

var secure answers[Capabilities]

// Probe asks a QEMU program over QMP, without a machine, what it can do with an
// accelerator ("kvm" or "tcg").
func Probe(ctx context.Context, binary, accel string) (Capabilities, error) {
	release, err := Version(ctx, binary)
	if err != nil {
		return Capabilities{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	args := []string{"-no-user-config", "-nodefaults", "-display", "none", "-machine", "none,accel=" + accel, "-qmp", "stdio"}
	if release.Sandbox {
		args = append(args, sandboxArgs()...)
	}
	model := "max"
	if accel == "kvm" {
		model = "host"
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities","id":1}
{"execute":"qom-list-types","arguments":{"implements":"user-creatable","abstract":false},"id":2}
{"execute":"query-cpu-model-expansion","arguments":{"type":"full","model":{"name":"` + model + `"}},"id":3}
{"execute":"quit","id":4}
`)
	out, words := &firstBytes{limit: maxProbe}, &firstBytes{limit: maxText}
	cmd.Stdout, cmd.Stderr = out, words
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Capabilities{}, fmt.Errorf("ask %s what it can do with %s: %w: %s", binary, accel, err, clip(strings.TrimSpace(words.String())))
	}
	c, err := parseProbe(out.Bytes())
	if err != nil {
		return Capabilities{}, fmt.Errorf("ask %s what it can do: %w", binary, err)
	}
	c.Release = release
	return c, nil
}

// parseProbe reads the answers to the commands above.
func parseProbe(out []byte) (c Capabilities, err error) {
	var answered [2]bool
	for line := range bytes.Lines(out) {
		m, err := decode(line)
		switch {
		case err != nil:
			return Capabilities{}, err
		case m.reply == nil:
		case m.reply.id == 2 && m.reply.err != nil:
			return Capabilities{}, m.reply.err
		case m.reply.id == 2:
			var types []struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(m.reply.ret, &types); err != nil {
				return Capabilities{}, fmt.Errorf("%w: %v", ErrProtocol, err)
			}
			for _, t := range types {
				c.PVGuest = c.PVGuest || t.Name == "s390-pv-guest"
			}
			answered[0] = true
		case m.reply.id == 3 && m.reply.err == nil:
			var expansion struct {
				Model struct {
					Props map[string]any `json:"props"`
				} `json:"model"`
			}
			if err := json.Unmarshal(m.reply.ret, &expansion); err != nil {
				return Capabilities{}, fmt.Errorf("%w: %v", ErrProtocol, err)
			}
			c.Unpack, _ = expansion.Model.Props["unpack"].(bool)
			answered[1] = true
		case m.reply.id == 3: // a CPU without any model, such as one with no KVM
			answered[1] = true
		}
	}
	if answered != [2]bool{true, true} {
		return Capabilities{}, errors.New("it ended before it had answered")
	}
	return c, nil
}

// firstBytes keeps the first bytes of a program's output.
type firstBytes struct {
	bytes.Buffer
	limit int
}

func (b *firstBytes) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.limit-b.Len())])
	return len(p), nil
}
