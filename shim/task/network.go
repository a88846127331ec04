package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/grpc/codes"

	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/shim/pod"
	"github.com/secexec/secexec/shim/podnet"
)

// offers is where shims hand pods' tap interfaces over to hostagent, a socket for
// each guest. The path is short enough for one.
const offers = "/run/containerd-shim-secexec"

// maxResolv bounds a resolv.conf; podnet says so of a longer one.
const maxResolv = 64 << 10

func offerPath(guest string) string { return filepath.Join(offers, guest) }

// netns is the task's network namespace, empty: it has none. A container has its
// sandbox's, which this shim serves too.
func (t *task) netns() (string, error) {
	if t.want.Kind != pod.Container {
		return t.want.NetNS, nil
	}
	sandbox, err := t.s.find(t.want.Sandbox, "")
	if err != nil || sandbox.over() {
		return "", failedPrecondition("pod %s has no sandbox any more: it must be made anew", t.want.Sandbox)
	}
	return sandbox.want.NetNS, nil
}

// join joins the guest to its pod's network: hostagent takes the tap interface
// over each time that it starts the guest.
func (t *task) join(ctx context.Context, netns string, r *hostagentv1.CreateRequest) error {
	if netns == "" {
		return nil
	}
	p, err := podnet.Join(ctx, netns)
	if err != nil {
		if errors.Is(err, podnet.ErrUnfit) || errors.Is(err, podnet.ErrHostNetwork) {
			return refuse(codes.FailedPrecondition, "%w", err)
		}
		return err
	}
	if t.want.Resolv != "" {
		text, err := readBounded(t.want.Resolv, maxResolv)
		if err != nil {
			return fmt.Errorf("read the pod's resolv.conf: %w", err)
		}
		left, err := p.Resolve(text)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			t.log.Warn("the guest is not told all of the pod's resolv.conf", "left_out", left)
		}
	}
	if err := os.MkdirAll(offers, 0o700); err != nil {
		return fmt.Errorf("offer pod's network: %w", err)
	}
	t.offer, err = p.Offer(offerPath(t.guest), func(err error) { t.log.Error("hand over pod's network", "error", err) })
	if err != nil {
		return err
	}
	r.Networks = append(r.Networks, &hostagentv1.Network{Kind: "handed", Socket: offerPath(t.guest), Mac: p.MAC})
	return nil
}

// leave takes the guest out of its pod's network.
func (t *task) leave(ctx context.Context, netns string) {
	if t.offer != nil {
		if err := t.offer.Close(); err != nil {
			t.log.Warn("end the offer of the pod's network", "error", err)
		}
		t.offer = nil
	}
	if err := leaveNetwork(ctx, t.guest, netns); err != nil {
		t.log.Warn("leave pod's network", "error", err)
	}
}

// leaveNetwork takes a guest out of a pod's network, also a dead shim's.
func leaveNetwork(ctx context.Context, guest, netns string) error {
	if netns == "" {
		return nil
	}
	err := podnet.Leave(ctx, netns)
	if gone := os.Remove(offerPath(guest)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
