package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// guestReport writes figures, page and plot. The first case is ours; programs is
// the folder with guestinit and guestagent.
func guestReport(dir, programs string, cases []*guestCase) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := describe(nil)
	if out, err := exec.Command("qemu-system-s390x", "--version").Output(); err == nil {
		m.Peer, _, _ = strings.Cut(string(out), "\n")
	}
	cases = slices.DeleteFunc(slices.Clone(cases), func(c *guestCase) bool { return len(c.Runs) == 0 })
	if len(cases) == 0 {
		return errors.New("no boot was timed")
	}
	for i, c := range cases { // where the files were is nobody's business
		shown := *c
		shown.Kernel, shown.Initrd, shown.Disk = filepath.Base(c.Kernel), filepath.Base(c.Initrd), filepath.Base(c.Disk)
		cases[i] = &shown
	}
	data, err := json.MarshalIndent(map[string]any{"machine": m, "cases": cases}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	share := make(map[string]float64)
	for _, c := range cases {
		share[c.Name] = medianOf(c.Runs, bootAt.share)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "# guestinit beside other initrds\n\nMade by `bench/guest.sh`: one run, in turns, medians. %s, %d cores, Linux %s, %s, %s.\n\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Peer)
	s.WriteString(guestMethod)
	s.WriteString("![shares](share.svg)\n\n| | share, 10^9 instructions | of tuned initramfs-tools' | goal | to the root's init, 10^9 | to ready, 10^9 | share, s | to the root's init, s | to ready, s | initrd, MB | by zstd -9, MB | boots counted, timed |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	var bars []bar
	for _, c := range cases {
		toInit, toReady := func(b bootAt) float64 { return b.Init }, func(b bootAt) float64 { return b.Ready }
		ratio := share[c.Name] / share[c.Of]
		fmt.Fprintf(&s, "| %s | %.3f | %.3f | %s | %.3f | %.3f | %.2f | %.2f | %.2f | %.2f | %.2f | %d, %d |\n", c.Name, share[c.Name], ratio, c.Goal, medianOf(c.Runs, toInit), medianOf(c.Runs, toReady),
			medianOf(c.Wall, bootAt.share), medianOf(c.Wall, toInit), medianOf(c.Wall, toReady), float64(c.InitrdSize)/1e6, float64(c.Packed)/1e6, len(c.Runs), len(c.Wall))
		bars = append(bars, bar{c.Name, ratio})
	}
	fmt.Fprintf(&s, "\nguestinit has %.2f MB (goal: 3), guestagent %.2f MB, static; guestagent by zstd -9 %.2f MB (goal of an initrd: a quarter of the tuned one and guestagent; ours lies in the sealed image as it is, so that no start unpacks it). In the guest, with its port open on the host and nobody speaking: %s (goals: 12 MiB, 0 times).\n", programSize(programs, "guestinit"), programSize(programs, "guestagent"), packedSize(programs, "guestagent"), cases[0].Agent)
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(s.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "share.svg"), drawBars("share of the boot as a multiple of tuned initramfs-tools': longer is slower", bars), 0o644)
}

// guestMethod says what is compared.
const guestMethod = `The same kernel, root (ext4 in dm-crypt, AES-256-XTS) and volume key for all; one CPU, 1 GiB, no network, the kernel command line ` + "`console=ttysclp0 panic=0 cryptomgr.notests`" + `, which guests have by default but for ` + "`quiet`" + ` (the kernel's "Run /init" is to be seen) and swiotlb. Rows "with self-tests" leave ` + "`cryptomgr.notests`" + ` out and are compared with each other. The plain guest has the same root neither encrypted nor sealed. No row has Secure Execution.

"Share" is from the kernel's "Run /init" to the first instruction of the root's init. It is counted in guest instructions, so that what else the machine does counts for nothing: QEMU's clock with ` + "`-icount shift=0,sleep=off`" + ` goes on by 1 ns with each, and idle time, which the guest tells, is taken off. "Ready" is when guestagent has told the host so, its keys made; of the others, when the root's init runs. Seconds are of boots without that clock.

initramfs-tools and cryptsetup are Debian 12's: "tuned" has the modules that the guest needs (MODULES=list), "most" is the default; dracut is 059 with its module crypt, without systemd. Key file and crypttab are in each initrd. "Signatures cut" has those modules without their signatures.

`
