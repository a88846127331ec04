package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// group is one question: the same work done by several contestants. The first
// one is ours.
type group struct {
	Name        string       `json:"name"`
	Bytes       int64        `json:"bytes"`          // of work, 0: it has no size
	Goal        string       `json:"goal,omitempty"` // what we want of it, in words
	Contestants []contestant `json:"contestants"`
}

// contestant is a command and what its runs took.
type contestant struct {
	Label string   `json:"label"`
	Argv  []string `json:"argv"`
	Runs  []run    `json:"runs"`

	prepare func() error // before each run, untimed
}

// run is what one run took. Wall and CPU in seconds, Resident in KiB. A child
// starts from the resident set of this program, which therefore stays small: no
// figure can be below it.
type run struct {
	Wall     float64 `json:"wall_s"`
	CPU      float64 `json:"cpu_s"`
	Resident int64   `json:"max_resident_kib"`
}

// measure lets the contestants of a group take turns.
func (g *group) measure(ctx context.Context, runs int) error {
	for i := range runs + 1 { // the first turn warms caches up and does not count
		for j := range g.Contestants {
			c := &g.Contestants[j]
			r, err := c.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", g.Name, c.Label, err)
			}
			if i > 0 {
				c.Runs = append(c.Runs, r)
			}
		}
	}
	for _, c := range g.Contestants {
		fmt.Printf("%-34s %-10s %9.1f ms  %6.2f x  %7.1f MiB\n", g.Name, c.Label, 1e3*c.wall(), c.wall()/g.Contestants[0].wall(), float64(c.resident())/1024)
	}
	return nil
}

func (c *contestant) once(ctx context.Context) (run, error) {
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return run{}, err
		}
	}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	var words strings.Builder
	cmd.Stderr = &words
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w: %s", strings.Join(c.Argv, " "), err, words.String())
	}
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return run{
		Wall:     wall.Seconds(),
		CPU:      (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		Resident: used.Maxrss,
	}, nil
}

// wall is the median time of the runs.
func (c *contestant) wall() float64 { return c.quantile(func(r run) float64 { return r.Wall }, 0.5) }

// resident is the largest resident set of any run.
func (c *contestant) resident() int64 {
	return int64(c.quantile(func(r run) float64 { return float64(r.Resident) }, 1))
}

func (c *contestant) quantile(of func(run) float64, q float64) float64 {
	values := make([]float64, len(c.Runs))
	for i, r := range c.Runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// remove returns a preparation that removes what a run made.
func remove(paths ...string) func() error {
	return func() error {
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		return nil
	}
}
