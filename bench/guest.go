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
	"strings"
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
	Packed int64  `json:"packed"` // bytes of the initrd by zstd -9
	Ours   bool   `json:"ours"`   // guestagent says when the guest is ready
	Of     string `json:"of"`     // the case that its share is compared with
	Goal   string `json:"goal,omitempty"`

	InitrdSize int64    `json:"initrd_bytes"`
	Runs       []bootAt `json:"runs"`            // with QEMU's instruction clock
	Wall       []bootAt `json:"wall"`            // without
	Agent      string   `json:"agent,omitempty"` // what the guest says of guestagent
}

// bootAt is when a boot came to the kernel's "Run /init", to the root's init and
// to the end of what it is timed for, in 10^9 instructions, or in seconds of wall
// time since QEMU's start.
type bootAt struct {
	RunInit float64 `json:"run_init"`
	Init    float64 `json:"init"`
	Ready   float64 `json:"ready"` // without guestagent: the root's init
}

// share is what lies between: the initrd's.
func (b bootAt) share() float64 { return b.Init - b.RunInit }

// guests boots each case, in turns, and reports after each. Boots that the list
// has already, as a report's figures do, count with the new ones.
func guests(ctx context.Context, o *options, list string, report func([]*guestCase) error) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var cases []*guestCase
	if err := json.Unmarshal(text, &cases); err != nil {
		return fmt.Errorf("read %s: %w", list, err)
	}
	for range o.runs {
		for _, c := range cases {
			if !strings.Contains(c.Name, o.only) {
				continue
			}
			info, err := os.Stat(c.Initrd)
			if err != nil {
				return err
			}
			c.InitrdSize = info.Size()
			for _, counted := range []bool{true, false} {
				at, err := c.boot(ctx, counted)
				if err != nil {
					return fmt.Errorf("%s: %w", c.Name, err)
				}
				fmt.Fprintf(os.Stderr, "%-60s counted %-5v run init %.3f init %.3f ready %.3f share %.3f\n", c.Name, counted, at.RunInit, at.Init, at.Ready, at.share())
				if counted {
					c.Runs = append(c.Runs, at)
				} else {
					c.Wall = append(c.Wall, at)
				}
			}
		}
		if err := report(cases); err != nil {
			return err
		}
	}
	return nil
}

var (
	runInit = regexp.MustCompile(`\[ *(\d+\.\d+)\] Run /init as init process`)
	marked  = regexp.MustCompile(`MARK started (\d+) ns, idle us (\d+)`)
	isReady = regexp.MustCompile(`STAGE ready (\d+)\n`)
	agentIs = regexp.MustCompile(`MARK (agent \d+ KiB, woken .*?)\r?\n`)
)

// boot boots once. Instructions are counted by QEMU: virtual time goes on by
// 1 ns with each, and jumps over idle time, which the root's init tells and which
// is taken off. Before the kernel's "Run /init" there is none.
func (c *guestCase) boot(ctx context.Context, counted bool) (at bootAt, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return at, err
	}
	defer os.RemoveAll(dir)
	port := filepath.Join(dir, "port")
	args := []string{
		"-M", "s390-ccw-virtio,accel=tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-snapshot",
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Append,
		"-drive", "file=" + c.Disk + ",format=raw,if=none,id=d", "-device", "virtio-blk-ccw,drive=d,serial=root",
		"-device", "virtio-serial-ccw", "-chardev", "file,id=r,path=" + port, "-device", "virtserialport,chardev=r,name=org.secexec.readiness.0",
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
	for {
		n, err := out.Read(buf)
		console = append(console, buf[:n]...)
		wall := time.Since(start).Seconds()
		run, init := runInit.FindSubmatch(console), marked.FindSubmatch(console)
		if at.RunInit == 0 && run != nil {
			if at.RunInit = wall; counted {
				at.RunInit = number(run[1])
			}
		}
		if at.Init == 0 && init != nil {
			if at.Init = wall; counted {
				at.Init = number(init[1])/1e9 - number(init[2])/1e6
			}
			at.Ready = at.Init
			if c.Ours {
				ready, err := waitReady(ctx, port)
				if err != nil {
					return at, err
				}
				if at.Ready = time.Since(start).Seconds(); counted {
					at.Ready = ready/1e3 - number(init[2])/1e6
				}
			}
		}
		if at.Init != 0 && (!counted || bytes.Contains(console, []byte("MARK end"))) {
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

// waitReady waits for a guest's last stage and returns when that was, in
// milliseconds of its clock. What the port says goes to a file.
func waitReady(ctx context.Context, port string) (float64, error) {
	for {
		text, err := os.ReadFile(port)
		if err != nil {
			return 0, err
		}
		if m := isReady.FindSubmatch(text); m != nil {
			return number(m[1]), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for guest to be ready: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// number reads what a regular expression found to be one.
func number(digits []byte) float64 {
	n, _ := strconv.ParseFloat(string(digits), 64)
	return n
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
