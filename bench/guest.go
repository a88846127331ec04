package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// guestCase is a way from the kernel's start to a root's init. bench/guest.sh
// writes them down; all have the same kernel, root and volume key.
type guestCase struct {
	Name   string `json:"name"`
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
	Append string `json:"append"` // kernel command line
	Disk   string `json:"disk"`   // raw, with serial number "root"; it is not changed

	InitrdSize int64    `json:"initrd_bytes"`
	Runs       []bootAt `json:"runs"`            // with QEMU's instruction clock
	Wall       []bootAt `json:"wall"`            // without
	Agent      string   `json:"agent,omitempty"` // what the guest says of guestagent
}

// bootAt is when a boot came to the kernel's "Run /init" and to the root's init,
// in 10^9 instructions, or in seconds of wall time since QEMU's start.
type bootAt struct {
	RunInit float64 `json:"run_init"`
	Init    float64 `json:"init"`
}

// share is what lies between: the initrd's.
func (b bootAt) share() float64 { return b.Init - b.RunInit }

// guests boots each case, in turns.
func guests(ctx context.Context, o *options, list string) ([]*guestCase, error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	var cases []*guestCase
	if err := json.Unmarshal(text, &cases); err != nil {
		return nil, fmt.Errorf("read %s: %w", list, err)
	}
	for range o.runs {
		for _, c := range cases {
			info, err := os.Stat(c.Initrd)
			if err != nil {
				return nil, err
			}
			c.InitrdSize = info.Size()
			for _, counted := range []bool{true, false} {
				at, err := c.boot(ctx, counted)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", c.Name, err)
				}
				fmt.Fprintf(os.Stderr, "%-40s counted %-5v run init %.3f init %.3f share %.3f\n", c.Name, counted, at.RunInit, at.Init, at.share())
				if counted {
					c.Runs = append(c.Runs, at)
				} else {
					c.Wall = append(c.Wall, at)
				}
			}
		}
	}
	return cases, nil
}

var (
	runInit = regexp.MustCompile(`\[ *(\d+\.\d+)\] Run /init as init process`)
	marked  = regexp.MustCompile(`MARK started (\d+) ns`)
	agentIs = regexp.MustCompile(`MARK (agent \d+ KiB, woken .*?)\r?\n`)
)

// boot boots once. Instructions are counted by QEMU: virtual time goes on by
// 1 ns with each, and jumps over idle time.
func (c *guestCase) boot(ctx context.Context, counted bool) (at bootAt, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args := []string{
		"-M", "s390-ccw-virtio,accel=tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-snapshot",
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Append,
		"-drive", "file=" + c.Disk + ",format=raw,if=none,id=d", "-device", "virtio-blk-ccw,drive=d,serial=root",
		"-device", "virtio-serial-ccw", "-chardev", "null,id=r", "-device", "virtserialport,chardev=r,name=org.secexec.readiness.0",
	}
	if counted {
		args = append(args, "-icount", "shift=0,sleep=off")
	}
	cmd := exec.CommandContext(ctx, "qemu-system-s390x", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return at, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return at, err
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	var console []byte
	buf := make([]byte, 4096)
	seen := func(re *regexp.Regexp, wall *float64, scale float64) bool {
		m := re.FindSubmatch(console)
		if m == nil || *wall != 0 {
			return m != nil
		}
		*wall = time.Since(start).Seconds()
		if counted {
			n, _ := strconv.ParseFloat(string(m[1]), 64)
			*wall = n * scale
		}
		return true
	}
	for {
		n, err := out.Read(buf)
		console = append(console, buf[:n]...)
		seen(runInit, &at.RunInit, 1)
		if seen(marked, &at.Init, 1e-9) && (!counted || bytes.Contains(console, []byte("MARK end"))) {
			if m := agentIs.FindSubmatch(console); m != nil {
				c.Agent = string(m[1])
			}
			return at, nil
		}
		if err != nil {
			return at, fmt.Errorf("%w: %w: console:\n%s", errors.New("guest ended before its init ran"), err, console)
		}
	}
}

// medianOf is the median of a figure of boots.
func medianOf(boots []bootAt, of func(bootAt) float64) float64 {
	var all []float64
	for _, b := range boots {
		all = append(all, of(b))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// programSize is a program's size in MB of 10^6 bytes.
func programSize(dir, name string) float64 {
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	return float64(info.Size()) / 1e6
}
