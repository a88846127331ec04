package main

import (
	"context"
	"encoding/hex"

	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// nodeFacts returns the facts of the node for the API.
func nodeFacts(p platform.Platform, qemu string) func(context.Context) *hostagentv1.NodeInfoResponse {
	return func(ctx context.Context) *hostagentv1.NodeInfoResponse {
		info := &hostagentv1.NodeInfoResponse{Version: version, Platform: p.Name(), Protected: p.Protected()}
		facts, err := platform.Facts(ctx, p, nil, qemu)
		if err != nil {
			info.Problem = err.Error()
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
