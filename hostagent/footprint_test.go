package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// footprint is what hostagent takes of its node.
type footprint struct {
	pss, threads, descriptors int // pss in KiB
	cpu                       time.Duration
}

func (n *node) footprint() (f footprint) {
	n.t.Helper()
	proc := fmt.Sprintf("/proc/%d", n.agent.Process.Pid)
	f.pss = number(n.t, proc+"/smaps_rollup", "Pss:")
	f.threads = number(n.t, proc+"/status", "Threads:")
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		n.t.Fatal(err)
	}
	f.descriptors = len(entries)
	f.cpu = n.cpu()
	return f
}

// cpu is hostagent's time so far, from the scheduler: ticks of /proc/PID/stat are
// too coarse.
func (n *node) cpu() (d time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", n.agent.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		var ran int64
		if _, e := fmt.Sscan(string(text), &ran); err == nil && e == nil {
			d += time.Duration(ran)
		}
	}
	return d
}

func number(t *testing.T, path, key string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), key); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// launch creates guests and starts them.
func (n *node) launch(names ...string) {
	n.t.Helper()
	n.must(func(ctx context.Context, c *client.Client) error {
		for _, name := range names {
			if _, err := c.Create(ctx, &hostagentv1.CreateRequest{Name: name, Bundle: n.bundle}); err != nil {
				return err
			}
			if _, err := c.Start(ctx, name, ""); err != nil {
				return err
			}
		}
		for _, name := range names {
			if g, err := becomes(ctx, c, name, "ready", "failed"); err != nil || g.State == "failed" {
				return fmt.Errorf("guest %s: %v %w", name, g.GetFailure(), err)
			}
		}
		return nil
	})
}

// What a guest costs hostagent: no thread, at most 4 descriptors, 40 KiB of
// memory (with a hundred of them, which takes make test-long), and no time while
// nothing happens; of a hostagent that started its guests, and of one that took
// them over.
func TestFootprint(t *testing.T) {
	t.Parallel()
	guests, rest := 10, 500*time.Millisecond
	long := os.Getenv("SECEXEC_LONG") != ""
	if long { // until hostagent has given back what the starts needed
		guests, rest = 100, 8*time.Second
	}
	n := newNode(t)
	n.launch("first")
	time.Sleep(rest)
	one := n.footprint()
	var names []string
	for i := range guests {
		names = append(names, fmt.Sprintf("g%d", i))
	}
	n.launch(names...)
	for _, how := range []string{"started", "taken over"} {
		if how == "taken over" {
			n.kill()
			begun := time.Now()
			n.boot()
			n.must(func(ctx context.Context, c *client.Client) error { _, err := c.List(ctx); return err })
			t.Logf("%d guests are listed again %s after the kill, for %s of CPU", guests+1, time.Since(begun).Round(time.Millisecond), n.cpu().Round(time.Millisecond))
		}
		n.check()
		time.Sleep(rest)
		begun, before := time.Now(), n.cpu()
		time.Sleep(rest)
		idle := float64(n.cpu()-before) / float64(time.Since(begun))
		f := n.footprint()
		t.Logf("%d guests, %s: PSS %d KiB (with one guest %d), %d threads (%d), %d descriptors (%d), idle at %.2f%% of a CPU", guests+1, how, f.pss, one.pss, f.threads, one.threads, f.descriptors, one.descriptors, 100*idle)
		if each := (f.pss - one.pss) / guests; each > 40 && long {
			t.Errorf("%s: %d KiB for each guest", how, each)
		}
		if each := float64(f.descriptors-one.descriptors) / float64(guests); each > 4 {
			t.Errorf("%s: %.1f descriptors for each guest", how, each)
		}
		if f.threads > one.threads+8 {
			t.Errorf("%s: %d threads, %d with one guest", how, f.threads, one.threads)
		}
		if idle > 0.02 {
			t.Errorf("%s: %.1f%% of a CPU when nothing happens", how, 100*idle)
		}
	}
}
