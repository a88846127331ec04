package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// machine describes where the figures are from.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Peer   string `json:"peer,omitempty"`
}

func report(dir, command string, groups []*group) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := describe(groups)
	data, err := json.MarshalIndent(map[string]any{"machine": m, "groups": groups}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(page(m, command, groups)), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ratios.svg"), plot(groups), 0o644)
}

// words say what the figures leave out.
const words = "secexec flushes what it makes to the disk before it gives it its name; pvimg does not. `sha512` hashes the same bytes on one core with Go's own SHA-512, " +
	"the floor of image create: its page list digest is one chain. `disk create` encrypts a file system that is there already and derives its key slot with 1000 PBKDF2 iterations, " +
	"so that cipher and disk are timed; the default Argon2id adds about 0.4 s. `cp` is followed by `sync` of its copy.\n\n"

// page is the report that people read.
func page(m machine, command string, groups []*group) string {
	var s strings.Builder
	fmt.Fprintf(&s, "# The owner's commands beside their peers\n\nMade by `go run ./bench -out DIR owner`; all of it in one run, contestants taking turns. %s, %d cores, Linux %s, %s", m.CPU, m.Cores, m.Kernel, m.Go)
	if m.Peer != "" {
		fmt.Fprintf(&s, "; %s", m.Peer)
	}
	fmt.Fprintf(&s, ".\n\nTimes are medians with minimum and maximum; × is the contestant's median over secexec's: above 1 means that secexec is faster.\n\n"+words+"![ratios](ratios.svg)\n\n")
	fmt.Fprintf(&s, "| what | who | median | min to max | × | CPU | resident at most |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, g := range groups {
		for i, c := range g.Contestants {
			what := ""
			if i == 0 {
				what = g.Name
			}
			cpu := c.quantile(func(r run) float64 { return r.CPU }, 0.5)
			wall := func(q float64) float64 { return 1e3 * c.quantile(func(r run) float64 { return r.Wall }, q) }
			fmt.Fprintf(&s, "| %s | %s | %.1f ms | %.1f to %.1f | %.2f | %.0f ms | %.1f MiB |\n", what, c.Label, wall(0.5), wall(0), wall(1), c.wall()/g.Contestants[0].wall(), 1e3*cpu, float64(c.resident())/1024)
		}
	}
	fmt.Fprintf(&s, "\n## What was run\n\n```\n")
	for _, g := range groups {
		for _, c := range g.Contestants {
			words := make([]string, len(c.Argv))
			for i, word := range c.Argv {
				words[i] = word
				if filepath.IsAbs(word) {
					words[i] = filepath.Base(word)
				}
			}
			fmt.Fprintf(&s, "%s: %s\n", g.Name, strings.Join(words, " "))
		}
	}
	fmt.Fprintf(&s, "```\n")
	return s.String()
}

func describe(groups []*group) machine {
	m := machine{CPU: "CPU unknown", Cores: runtime.NumCPU(), Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	for _, g := range groups {
		for _, c := range g.Contestants {
			if c.Label == "pvimg" && m.Peer == "" {
				out, _ := exec.Command(c.Argv[0], "--version").Output()
				m.Peer, _, _ = strings.Cut(string(out), "\n")
			}
		}
	}
	return m
}
