package kube

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var resultFile = flag.String("result", "", "file to write what was measured to")

// figure is what one round of placement took.
type figure struct {
	what           string
	pods, pending  int
	took           time.Duration // from the first pod that got a node to the last
	scheduler, api time.Duration // processor time; the scheduler's with its start
}

// measure creates pods while no scheduler runs, starts one, and takes the time
// until it has judged all. All are where they may be, and none waits that need
// not. Then the pods go.
func (s *stage) measure(t *testing.T, what string, pods []*corev1.Pod) {
	t.Helper()
	each(t, pods, s.post)
	api := cpuOf(t, s.api)
	binds := s.watchBinds(t)
	scheduler := s.cluster.scheduler(t)
	bound, pending := s.judged(t, pods, scheduler)
	f := figure{what: what, pods: len(bound), pending: len(pending)}
	f.took = binds(len(bound))
	f.api = cpuOf(t, s.api) - api
	scheduler.stop()
	f.scheduler = scheduler.cpu()
	s.wantFull(t, pending)
	s.audit(t, s.slots)
	s.remove(t, pods)
	t.Logf("%s: %d pods placed in %v (%.0f/s), %d wait; CPU: scheduler %v, kube-apiserver %v",
		what, f.pods, f.took.Round(time.Millisecond), f.rate(), f.pending, f.scheduler.Round(time.Millisecond), f.api.Round(time.Millisecond))
	s.figures = append(s.figures, f)
}

func (f figure) rate() float64 { return float64(f.pods) / f.took.Seconds() }

// cpuOf returns the processor time of a process that runs, by /proc/PID/stat in
// hundredths of a second (proc(5); USER_HZ is 100 on every Linux).
func cpuOf(t *testing.T, p *process) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // behind the program's name, which may have blanks
	var user, system int64
	if _, err := fmt.Sscan(strings.Join(strings.Fields(rest)[11:13], " "), &user, &system); err != nil {
		t.Fatalf("read %q: %v", b, err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// say keeps a sentence of the scheduler's for the result.
func (s *stage) say(when, said string) { s.said = append(s.said, [2]string{when, said}) }

// write writes the result, if all went well.
func (s *stage) write(t *testing.T) {
	t.Helper()
	if *resultFile == "" || t.Failed() {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# A fleet of %d nodes

Written by `+"`make test-kube`"+` on %s. %d nodes, %d distinct host keys on them; every %dth node without Secure Execution, the nodes of %d keys full, the others with places for %d guests each. Bundles were sealed and retargeted by secexec, pods are those of `+"`secexec kubernetes manifest`"+`.

Every pod that got a node is on one with Secure Execution and one of the keys that its image is sealed for, no node has more guests or memory than it offers, and pods waited only where each node that could start them was full.

| key slots of a bundle | pods placed | pods that wait | from the first to the last | pods/s | CPU of kube-scheduler | CPU of kube-apiserver |
| --- | --: | --: | --: | --: | --: | --: |
`, len(s.nodes), time.Now().UTC().Format(time.DateOnly), len(s.nodes), fleetKeys, plainEvery, fullKeys, perNode)
	for _, f := range s.figures {
		fmt.Fprintf(&b, "| %s | %d | %d | %.2f s | %.0f | %.1f s | %.1f s |\n",
			f.what, f.pods, f.pending, f.took.Seconds(), f.rate(), f.scheduler.Seconds(), f.api.Seconds())
	}
	b.WriteString("\nPods are created first, then kube-scheduler starts: its CPU time includes its start and reading the fleet. Its limit on calls to the API server (50/s) is lifted, all else is as it comes; etcd, kube-apiserver, kube-scheduler and the test share the machine.\n")
	b.WriteString("\nWhat a pod's event says:\n\n")
	for _, said := range s.said {
		fmt.Fprintf(&b, "- %s: `%s`\n", said[0], said[1])
	}
	fmt.Fprintf(&b, "\nMachine: %s. %s, %s, %s, %s.\n", thisMachine(), firstLine(t, program(t, "kube-apiserver"), "--version"),
		firstLine(t, program(t, "etcd"), "--version"), runtime.Version(), firstLine(t, s.owner.secexec, "--version"))
	if err := os.WriteFile(*resultFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func firstLine(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// thisMachine is what the figures were measured on.
func thisMachine() string {
	model := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d CPUs (%s)", runtime.NumCPU(), model)
}
