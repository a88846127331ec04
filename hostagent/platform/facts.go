package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/secexec/secexec/hostagent/qemu"
)

// NodeFacts is what a node tells of itself.
type NodeFacts struct {
	Platform      string // NameSE or NameEmulated
	Protected     bool   // guests are protected from this machine
	QEMU          qemu.Release
	HostKeyHashes [][32]byte // nil if the node cannot tell
	MemoryMiB     int        // the node's memory
	CPUs          int        // CPUs that the node runs guests on
	// Warning is a sentence for people, such as EmulatedWarning; "" if there is
	// nothing to warn of.
	Warning string
}

// Facts checks the node (see [Platform]'s Check), asks the QEMU program for its
// release and gathers the rest. Root is where proc is found; nil is the
// machine's own root.
func Facts(ctx context.Context, p Platform, root fs.FS, binary string) (NodeFacts, error) {
	if root == nil {
		root = os.DirFS("/")
	}
	if err := p.Check(ctx); err != nil {
		return NodeFacts{}, fmt.Errorf("check node: %w", err)
	}
	facts := NodeFacts{Platform: p.Name(), Protected: p.Protected(), CPUs: runtime.NumCPU()}
	var err error
	if facts.QEMU, err = qemu.Version(ctx, binary); err != nil {
		return NodeFacts{}, fmt.Errorf("check node: %w", err)
	}
	facts.HostKeyHashes, err = p.HostKeyHashes()
	switch {
	case errors.Is(err, ErrHashesUnknown):
		facts.Warning = "This node does not tell its host key hashes: whether an image can start here is known only when it starts."
	case err != nil:
		return NodeFacts{}, fmt.Errorf("check node: %w", err)
	}
	if !facts.Protected {
		facts.Warning = EmulatedWarning
	}
	if facts.MemoryMiB, err = NodeMemory(root); err != nil {
		return NodeFacts{}, fmt.Errorf("check node: %w", err)
	}
	return facts, nil
}

// NodeMemory is the node's memory in MiB. Root is where proc is found; nil is
// the machine's own root.
func NodeMemory(root fs.FS) (int, error) {
	if root == nil {
		root = os.DirFS("/")
	}
	text, err := readFile(root, "proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the node's memory: %w", err)
	}
	return parseMemTotal(text)
}

// parseMemTotal reads a node's memory in MiB from /proc/meminfo.
func parseMemTotal(text []byte) (int, error) {
	for line := range bytes.Lines(text) {
		rest, ok := strings.CutPrefix(string(line), "MemTotal:")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) != 2 || f[1] != "kB" {
			break
		}
		kib, err := strconv.ParseUint(f[0], 10, 52)
		if err != nil {
			break
		}
		return int(kib / 1024), nil
	}
	return 0, errors.New("read /proc/meminfo: no MemTotal in kB")
}
