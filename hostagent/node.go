package main

import (
	"context"
	"encoding/hex"
	"log/slog"

	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// nodeFacts returns the facts of the node for the API.
func nodeFacts(p platform.Platform, qemu string) func(context.Context) *hostagentv1.NodeInfoResponse {
	return func(ctx context.Context) *hostagentv1.NodeInfoResponse {
		info := &hostagentv1.NodeInfoResponse{Version: version, Platform: p.Name(), Protected: p.Protected()}
		facts, err := platform.Facts(ctx, p, nil, qemu)
		if err != nil {
			info.Problem = err.Error() + ": secexec node check shows each thing that a node needs"
			return info
		}
		info.QemuVersion = facts.QEMU.String()
		info.MemoryMib, info.Cpus = uint64(facts.MemoryMiB), uint32(facts.CPUs)
		info.HostKeyHashesKnown = facts.HostKeyHashes != nil
		for _, hash := range facts.HostKeyHashes {
			info.HostKeyHashes = append(info.HostKeyHashes, hex.EncodeToString(hash[:]))
		}
		return info
	}
}

// examine returns the report on the node for the API.
func examine(c *settings.Settings) func(context.Context) []node.Finding {
	return func(ctx context.Context) []node.Finding {
		return node.Check(ctx, node.Local(), node.Options{
			Emulated: c.Platform == platform.NameEmulated, EmulatedHost: c.EmulatedHost, Force: c.ForceEmulated, QEMU: c.QEMU, State: c.State,
		})
	}
}

// logReport logs what is wrong with the node, line by line.
func logReport(ctx context.Context, log *slog.Logger, findings []node.Finding) {
	for _, f := range findings {
		level := slog.LevelWarn
		switch f.Result {
		case node.Pass:
			continue
		case node.Fail:
			level = slog.LevelError
		}
		log.Log(ctx, level, "node check", "check", f.Check, "result", f.Result, "says", f.Says, "remedy", f.Remedy)
	}
}
