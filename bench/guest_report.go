package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// guestReport writes figures, page and plot. The first case is ours; programs is
// the folder with guestinit and guestagent.
func guestReport(dir, programs string, cases []*guestCase) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := describe(nil)
	data, err := json.MarshalIndent(map[string]any{"machine": m, "cases": cases}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "figures.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "# guestinit beside other initrds\n\nMade by `bench/guest.sh`: one run, in turns. %s, %d cores, Linux %s, %s.\n\n", m.CPU, m.Cores, m.Kernel, m.Go)
	s.WriteString("The same kernel, root (ext4 in dm-crypt, AES-256-XTS) and volume key for all; one CPU, 1 GiB. \"Share\" is from the kernel's \"Run /init\" to the root's init, in 10^9 guest instructions: QEMU's clock with `-icount shift=0,sleep=off` goes on by 1 ns with each, so what else the machine does counts for nothing. Wall times are of boots without that clock. Medians.\n\n")
	s.WriteString("![shares](share.svg)\n\n| | share, 10^9 instructions | of ours | whole boot, 10^9 instructions | share, wall s | whole boot, wall s | initrd, MB |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	first := medianOf(cases[0].Runs, bootAt.share)
	var bars []bar
	for _, c := range cases {
		whole := func(b bootAt) float64 { return b.Init }
		share := medianOf(c.Runs, bootAt.share)
		fmt.Fprintf(&s, "| %s | %.3f | %.2f | %.3f | %.2f | %.2f | %.2f |\n", c.Name, share, share/first, medianOf(c.Runs, whole),
			medianOf(c.Wall, bootAt.share), medianOf(c.Wall, whole), float64(c.InitrdSize)/1e6)
		bars = append(bars, bar{c.Name, share / first})
	}
	fmt.Fprintf(&s, "\nguestinit has %.2f MB, guestagent %.2f MB, static. In the guest, with its port open on the host and nobody speaking: %s.\n", programSize(programs, "guestinit"), programSize(programs, "guestagent"), cases[0].Agent)
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(s.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "share.svg"), drawBars("share of the boot as a multiple of ours: longer is slower", bars), 0o644)
}
