package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// stack is a daemon with its guests, ours or the peer's.
type stack interface {
	label() string
	pids() []int                                             // the daemon's processes
	boot(ctx context.Context) error                          // starts the daemon; it answers when this returns
	murder() error                                           // kill -9 of the daemon
	start(ctx context.Context, i int) error                  // starts guest i, paused
	kill(ctx context.Context, i int) error                   // ends it
	list(ctx context.Context) (running int, err error)       // by the command line
	statistics(ctx context.Context) error                    // of all, by the command line
	death(ctx context.Context, i int) (time.Duration, error) // from a QEMU's kill -9 to the daemon's word of it
	close() error
}

// figures are what was seen of one stack. Times in milliseconds, medians where
// there were several.
type figures struct {
	Label      string           `json:"label"`
	Idle       usage            `json:"idle"`
	Guests     map[string]usage `json:"with_guests"` // by number of guests
	StartWall  float64          `json:"start_ms"`
	StartCPU   float64          `json:"start_own_cpu_ms"`
	StartNode  float64          `json:"start_node_cpu_ms"` // the machine's, less QEMU's
	IdleCPU    float64          `json:"idle_cpu_ms"`       // in 10 seconds with all guests
	List       float64          `json:"list_ms"`
	Statistics float64          `json:"statistics_ms"`
	Kill       float64          `json:"kill_ms"`
	Death      float64          `json:"death_ms"`
	Again      float64          `json:"listed_again_ms"` // from kill -9 of the daemon
	AgainCPU   float64          `json:"listed_again_cpu_ms"`
	Survived   int              `json:"survived"` // guests listed then
}

// manyGuests is what List is timed with.
const manyGuests = 1000

// host measures both stacks, one after the other: 100 guests of each would not
// fit beside each other.
func host(ctx context.Context, o *options) (all []*figures, floor, listed float64, err error) {
	dir, err := os.MkdirTemp("", "b") // short: sockets have short paths
	if err != nil {
		return nil, 0, 0, err
	}
	defer os.RemoveAll(dir)
	if floor, err = qemuFloor(ctx, dir, o.runs); err != nil {
		return nil, 0, 0, err
	}
	fmt.Printf("QEMU alone to its first QMP answer: %.1f ms\n", floor)
	if listed, err = listMany(ctx, dir, manyGuests, o); err != nil {
		return nil, 0, 0, err
	}
	ours, err := newOurs(dir, o)
	if err != nil {
		return nil, 0, 0, err
	}
	stacks := []stack{ours}
	if _, err := exec.LookPath("libvirtd"); err == nil {
		theirs, err := newLibvirt(filepath.Join(dir, "libvirt"), o)
		if err != nil {
			return nil, 0, 0, err
		}
		stacks = append(stacks, theirs)
	} else {
		fmt.Println("libvirtd is not installed: it is left out")
	}
	for _, s := range stacks {
		f, err := watch(ctx, s, o)
		if err = errors.Join(err, s.close()); err != nil {
			return nil, 0, 0, fmt.Errorf("%s: %w", s.label(), err)
		}
		all = append(all, f)
	}
	return all, floor, listed, nil
}

// watch takes a stack through its paces.
func watch(ctx context.Context, s stack, o *options) (*figures, error) {
	f := &figures{Label: s.label(), Guests: map[string]usage{}}
	if err := s.boot(ctx); err != nil {
		return nil, err
	}
	var err error
	time.Sleep(time.Second)
	if f.Idle, err = usageOf(s.pids()); err != nil {
		return nil, err
	}
	fmt.Printf("%s idle: %.1f MiB\n", f.Label, f.Idle.PSS)
	var walls []float64
	for i := range o.guests {
		start := time.Now()
		if err := s.start(ctx, i); err != nil {
			return nil, err
		}
		walls = append(walls, ms(time.Since(start)))
		if n := i + 1; n == 1 || n == 20 || n == o.guests {
			time.Sleep(time.Second)
			if f.Guests[fmt.Sprint(n)], err = usageOf(s.pids()); err != nil {
				return nil, err
			}
		}
	}
	f.StartWall = median(walls)
	last := f.Guests[fmt.Sprint(o.guests)]
	f.StartCPU = ms(last.CPU-f.Idle.CPU) / float64(o.guests)
	fmt.Printf("%s with %d: %.1f MiB, %d threads, %d descriptors; start %.1f ms, own CPU %.1f ms\n", f.Label, o.guests, last.PSS, last.Threads, last.Files, f.StartWall, f.StartCPU)

	time.Sleep(8 * time.Second) // hostagent gives memory back 5 s after the last change
	before, err := usageOf(s.pids())
	if err != nil {
		return nil, err
	}
	time.Sleep(10 * time.Second)
	after, err := usageOf(s.pids())
	if err != nil {
		return nil, err
	}
	f.IdleCPU = ms(after.CPU - before.CPU)

	if f.List, err = timed(o.runs, func(int) error {
		n, err := s.list(ctx)
		if err == nil && n != o.guests {
			err = fmt.Errorf("lists %d guests of %d", n, o.guests)
		}
		return err
	}); err != nil {
		return nil, err
	}
	if f.Statistics, err = timed(o.runs, func(int) error { return s.statistics(ctx) }); err != nil {
		return nil, err
	}
	if err := f.again(ctx, s, o); err != nil {
		return nil, err
	}
	var deaths []float64
	for i := range o.runs {
		d, err := s.death(ctx, i)
		if err != nil {
			return nil, err
		}
		deaths = append(deaths, ms(d))
	}
	f.Death = median(deaths)
	if f.Kill, err = timed(o.runs, func(i int) error { return s.kill(ctx, o.runs+i) }); err != nil {
		return nil, err
	}
	// What starts cost the machine besides QEMU, with what was ended just now.
	cpu0, err := machineCPU()
	if err != nil {
		return nil, err
	}
	q0 := qemuCPU()
	for i := range 2 * o.runs {
		if err := s.start(ctx, i); err != nil {
			return nil, err
		}
	}
	time.Sleep(500 * time.Millisecond)
	cpu1, err := machineCPU()
	if err != nil {
		return nil, err
	}
	f.StartNode = (ms(cpu1-cpu0) - ms(qemuCPU()-q0)) / float64(2*o.runs)
	return f, nil
}

// again kills the daemon and waits until all guests are listed.
func (f *figures) again(ctx context.Context, s stack, o *options) error {
	var walls, cpus []float64
	for range min(o.runs, 5) {
		if err := s.murder(); err != nil {
			return err
		}
		start := time.Now()
		if err := s.boot(ctx); err != nil {
			return err
		}
		n := 0
		for n < o.guests && time.Since(start) < 20*time.Second {
			var err error
			if n, err = s.list(ctx); err != nil {
				return err
			}
		}
		walls = append(walls, ms(time.Since(start)))
		f.Survived = n
		time.Sleep(time.Second)
		u, err := usageOf(s.pids())
		if err != nil {
			return err
		}
		cpus = append(cpus, ms(u.CPU))
	}
	f.Again, f.AgainCPU = median(walls), median(cpus)
	return nil
}

// qemuCPU is what all QEMUs that run now have used.
func qemuCPU() (sum time.Duration) {
	for _, pid := range named("qemu-system-s390x") {
		if cpu, err := cpuOf(pid); err == nil {
			sum += cpu
		}
	}
	return sum
}

func timed(runs int, do func(i int) error) (float64, error) {
	var walls []float64
	for i := range runs {
		start := time.Now()
		if err := do(i); err != nil {
			return 0, err
		}
		walls = append(walls, ms(time.Since(start)))
	}
	return median(walls), nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}
