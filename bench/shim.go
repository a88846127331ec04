package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Deletions that look for what is left: as many launches one after the other, and
// at a time.
const (
	inRow  = 50
	atOnce = 10
)

// contender is a runtime of containerd with what its tasks run.
type contender struct {
	label   string
	runtime string
	program string   // its shim
	options []string // of ctr containers create
	command []string // empty: the image's
}

// shimFigures are what was seen of one runtime's shims. Times in milliseconds.
type shimFigures struct {
	Label    string         `json:"label"`
	Launches []turn         `json:"launches"`
	IdleCPU  float64        `json:"idle_cpu_ms"`  // of a shim, in 10 seconds
	Together float64        `json:"together_ms"`  // until all run that are launched at once
	Shared   float64        `json:"together_mib"` // PSS of a shim then, the mean
	Row      map[string]int `json:"left_of_row"`
	Once     map[string]int `json:"left_of_together"`
}

// turn is one task's: from ctr's start to its answer that the task runs, and
// from ctr's start to its answer that the task is deleted.
type turn struct {
	Wall   float64 `json:"running_ms"`
	Delete float64 `json:"deleted_ms"`
	Start  float64 `json:"start_command_cpu_ms"` // in steps of 10: their mean counts
	Own    float64 `json:"shim_cpu_ms"`
	Called float64 `json:"called_cpu_ms"` // of hostagent without QEMU, of runc
	Remove float64 `json:"delete_command_cpu_ms"`
	Shim   usage   `json:"shim"` // while the task runs
}

// shims measures both runtimes under one containerd, which lets them take turns.
// floor is what ctr takes for a call that no shim hears of.
func shims(ctx context.Context, o *options, image string) (all []*shimFigures, floor float64, err error) {
	if os.Geteuid() != 0 {
		return nil, 0, errors.New("containerd wants root")
	}
	e, err := newEngine(ctx, o, image)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if floor, err = timed(max(o.runs, 5), func(int) error { return e.ctr(ctx, "version") }); err != nil {
		return nil, 0, err
	}
	contenders := []*contender{
		{label: "secexec", runtime: "io.containerd.secexec.v2", program: "containerd-shim-secexec-v2"},
		{label: "runc", runtime: "io.containerd.runc.v2", program: "containerd-shim-runc-v2",
			options: []string{"--mount", "type=bind,src=" + e.self + ",dst=/pause,options=rbind:ro"}, command: []string{"/pause", "pause", e.path("")}},
	}
	for _, c := range contenders {
		all = append(all, &shimFigures{Label: c.label})
	}
	for i := range o.runs + 1 { // the first turn does not count, as elsewhere
		for j, c := range contenders {
			l, err := e.launch(ctx, c, "turn")
			if err != nil {
				return nil, 0, fmt.Errorf("%s: %w", c.label, err)
			}
			if i > 0 {
				all[j].Launches = append(all[j].Launches, *l)
			}
		}
	}
	for j, c := range contenders {
		if err := e.endure(ctx, c, all[j]); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", c.label, err)
		}
	}
	return all, floor, nil
}

// clocks are what the daemons have used: containerd's children that it has waited
// for, and hostagent itself.
type clocks struct{ children, hostagent time.Duration }

func (e *engine) clocks() (c clocks, err error) {
	if c.children, err = waitedOf(e.containerd.Process.Pid); err == nil {
		c.hostagent, err = clockOf(e.hostagent.cmd.Process.Pid)
	}
	return c, err
}

// launch starts a task, looks at its shim and deletes it.
func (e *engine) launch(ctx context.Context, c *contender, id string) (*turn, error) {
	if err := e.create(ctx, c, id); err != nil {
		return nil, err
	}
	before, err := e.clocks()
	if err != nil {
		return nil, err
	}
	var l turn
	begin := time.Now()
	if err := e.start(ctx, id); err != nil {
		return nil, err
	}
	l.Wall = ms(time.Since(begin))
	pid, err := e.shim(c, id)
	if err != nil {
		return nil, err
	}
	own, err := clockOf(pid)
	if err != nil {
		return nil, err
	}
	runc, err := waitedOf(pid)
	if err != nil {
		return nil, err
	}
	started, err := e.clocks()
	if err != nil {
		return nil, err
	}
	l.Start, l.Own, l.Called = ms(started.children-before.children), ms(own), ms(runc+started.hostagent-before.hostagent)
	time.Sleep(500 * time.Millisecond)
	if l.Shim, err = usageOf([]int{pid}); err != nil {
		return nil, err
	}
	begin = time.Now()
	if err := e.delete(ctx, id); err != nil {
		return nil, err
	}
	l.Delete = ms(time.Since(begin))
	if err := e.forget(ctx, id); err != nil {
		return nil, err
	}
	e.settle()
	ended, err := e.clocks()
	l.Remove = ms(ended.children - started.children)
	return &l, err
}

// endure lets a task idle, and launches and deletes many, in a row and at once.
func (e *engine) endure(ctx context.Context, c *contender, f *shimFigures) error {
	if err := e.run(ctx, c, "idle"); err != nil {
		return err
	}
	pid, err := e.shim(c, "idle")
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	before, err := clockOf(pid)
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	after, err := clockOf(pid)
	if err != nil {
		return err
	}
	f.IdleCPU = ms(after - before)
	if err := e.drop(ctx, "idle"); err != nil {
		return err
	}
	if f.Row, err = e.left(func() error {
		for range inRow {
			if err := errors.Join(e.run(ctx, c, "row"), e.drop(ctx, "row")); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	f.Once, err = e.left(func() error { return e.together(ctx, c, f) })
	return err
}

// together launches tasks at once, looks at their shims and deletes them at once.
func (e *engine) together(ctx context.Context, c *contender, f *shimFigures) error {
	id := func(i int) string { return fmt.Sprint("once-", i) }
	begin := time.Now()
	if err := each(func(i int) error { return e.run(ctx, c, id(i)) }); err != nil {
		return err
	}
	f.Together = ms(time.Since(begin))
	time.Sleep(time.Second)
	var pids []int
	for i := range atOnce {
		pid, err := e.shim(c, id(i))
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	u, err := usageOf(pids)
	if err != nil {
		return err
	}
	f.Shared = u.PSS / atOnce
	return each(func(i int) error { return e.drop(ctx, id(i)) })
}

// each does something for all that go at once.
func each(do func(i int) error) error {
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for i := range atOnce {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
