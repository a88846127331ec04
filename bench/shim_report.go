package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// middle is the median of launches, mean their mean: of CPU times in steps of 10 ms.
func middle(of func(l *turn) float64) func(*shimFigures) float64 {
	return func(f *shimFigures) float64 {
		var values []float64
		for i := range f.Launches {
			values = append(values, of(&f.Launches[i]))
		}
		return median(values)
	}
}

func mean(of func(l *turn) float64) func(*shimFigures) float64 {
	return func(f *shimFigures) (sum float64) {
		for i := range f.Launches {
			sum += of(&f.Launches[i])
		}
		return sum / float64(len(f.Launches))
	}
}

func shimRows() []row[shimFigures] {
	start := mean(func(l *turn) float64 { return l.Start })
	own := middle(func(l *turn) float64 { return l.Own })
	rows := []row[shimFigures]{
		{"RSS of a shim, its task running", "MiB", "≤ 15", middle(func(l *turn) float64 { return l.Shim.RSS })},
		{"PSS of it", "MiB", "", middle(func(l *turn) float64 { return l.Shim.PSS })},
		{fmt.Sprintf("PSS of each of %d", atOnce), "MiB", "", func(f *shimFigures) float64 { return f.Shared }},
		{"its threads", "", "", middle(func(l *turn) float64 { return float64(l.Shim.Threads) })},
		{"its descriptors", "", "", middle(func(l *turn) float64 { return float64(l.Shim.Files) })},
		{"CPU of a launch: the shim's start command", "ms", "", start},
		{"CPU of a launch: the shim", "ms", "", own},
		{"CPU of a launch: both", "ms", "≤ 50", func(f *shimFigures) float64 { return start(f) + own(f) }},
		{"CPU of a launch: hostagent; runc", "ms", "", mean(func(l *turn) float64 { return l.Called })},
		{"CPU of the shim's delete command", "ms", "", mean(func(l *turn) float64 { return l.Remove })},
		{"CPU of the shim, 10 s idle", "ms", "", func(f *shimFigures) float64 { return f.IdleCPU }},
		{"create to running, wall", "ms", "", middle(func(l *turn) float64 { return l.Wall })},
		{"delete, wall", "ms", "", middle(func(l *turn) float64 { return l.Delete })},
		{fmt.Sprintf("%d at once, until all run, wall", atOnce), "ms", "", func(f *shimFigures) float64 { return f.Together }},
	}
	for _, kind := range kinds {
		rows = append(rows, row[shimFigures]{fmt.Sprintf("%s left of %d in a row", kind, inRow), "", "0", func(f *shimFigures) float64 { return float64(f.Row[kind]) }})
	}
	for _, kind := range kinds {
		rows = append(rows, row[shimFigures]{fmt.Sprintf("%s left of %d at once", kind, atOnce), "", "0", func(f *shimFigures) float64 { return float64(f.Once[kind]) }})
	}
	return rows
}

// shimMethod says what is compared.
const shimMethod = `One containerd with a root and a state of its own, CRI off, snapshotter overlayfs, and a hostagent put together as its own program does, with guests as children (so there are no units that could be left), on a platform that leaves them paused: QEMU emulates and stays before the first instruction. Tasks of both runtimes are of the same image, a bundle of 53 MiB by ` + "`secexec bundle push --format image`" + `: one makes a guest of 64 MiB of it, for which hostagent copies and checks the bundle; the other is a container with a static program mounted into it, which sleeps. Consoles go to files.

"Create to running" is ` + "`ctr tasks start --detach`" + `, "delete" is ` + "`ctr tasks rm --force`" + `, which kills before; the container with its snapshot is made before and removed after. CPU of the shim is its process's own clock when ctr has answered; that of the start and delete commands is what containerd has waited for, in steps of 10 ms, the mean of all launches; hostagent's is its own without QEMU, runc's what its shim has waited for. containerd 1.6 calls the delete command after each task. What is left is counted when it has had up to 20 s to go.

`

func shimReport(dir string, all []*shimFigures, floor float64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := describe(nil)
	var versions []string
	for _, program := range []string{"containerd", "runc", "qemu-system-s390x"} {
		if out, err := exec.Command(program, "--version").Output(); err == nil {
			first, _, _ := strings.Cut(string(out), "\n")
			versions = append(versions, first)
		}
	}
	m.Peer = strings.Join(versions, ", ")
	data, err := json.MarshalIndent(map[string]any{"machine": m, "ctr_floor_ms": floor, "shims": all}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	var s strings.Builder
	var labels []string
	for _, f := range all {
		labels = append(labels, f.Label)
	}
	fmt.Fprintf(&s, "# containerd's shim of sealed guests beside runc's\n\nMade by `bench/shim.sh`: one run, %d launches of each in turns. %s, %d cores, Linux %s, %s; %s.\n\n", len(all[0].Launches), m.CPU, m.Cores, m.Kernel, m.Go, m.Peer)
	fmt.Fprintf(&s, "%sTimes are medians but where a mean is named. ctr itself takes %.1f ms (`ctr version`), which is in the wall times.\n\n![ratios](ratios.svg)\n\n", shimMethod, floor)
	bars := table(&s, labels, all, shimRows())
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(s.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ratios.svg"), drawBars("runc's over secexec's: above 1 means that secexec's takes less", bars), 0o644)
}
