package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	check "github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// nodeFacts returns the facts of the node for the API.
func nodeFacts(p platform.Platform, qemu string, r *report) func(context.Context) *hostagentv1.NodeInfoResponse {
	return func(ctx context.Context) *hostagentv1.NodeInfoResponse {
		info := &hostagentv1.NodeInfoResponse{Version: version, Platform: p.Name(), Protected: p.Protected(), Channel: check.Channel(os.DirFS("/"))}
		facts, err := platform.Facts(ctx, p, nil, qemu)
		info.Problem = r.problem(ctx)
		if err != nil && info.Problem == "" {
			info.Problem = err.Error()
		}
		if err != nil {
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

// report is what was found when the node was examined last.
type report struct {
	settings *settings.Settings

	mu       sync.Mutex
	findings []check.Finding
	at       time.Time
}

// reportAge is how old a report may be for those who only want to know whether
// there is a problem: to examine starts programs.
const reportAge = time.Minute

// fresh examines the node.
func (r *report) fresh(ctx context.Context) []check.Finding {
	c := r.settings
	findings := check.Check(ctx, check.Local(), check.Options{
		Emulated: c.Platform == platform.NameEmulated, EmulatedHost: c.EmulatedHost, Force: c.ForceEmulated, QEMU: c.QEMU, State: c.State,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings, r.at = findings, time.Now()
	return findings
}

// problem is why guests can't run here, "" if they can.
func (r *report) problem(ctx context.Context) string {
	r.mu.Lock()
	findings, at := r.findings, r.at
	r.mu.Unlock()
	if time.Since(at) > reportAge {
		findings = r.fresh(ctx)
	}
	return problemOf(findings)
}

// problemOf is the first that is to be put right, and how many there are.
func problemOf(findings []check.Finding) string {
	var text string
	failed := 0
	for _, f := range findings {
		if f.Result != check.Fail {
			continue
		}
		if failed++; failed == 1 {
			text = f.Says + ": " + f.Remedy
		}
	}
	if failed > 1 {
		text += fmt.Sprintf(" (and %d more: see secexec node check)", failed-1)
	}
	return text
}

// logReport logs what is wrong with the node, line by line.
func logReport(ctx context.Context, log *slog.Logger, findings []check.Finding) {
	for _, f := range findings {
		level := slog.LevelWarn
		switch f.Result {
		case check.Pass:
			continue
		case check.Fail:
			level = slog.LevelError
		}
		log.Log(ctx, level, "node check", "check", f.Check, "result", f.Result, "says", f.Says, "remedy", f.Remedy)
	}
}
