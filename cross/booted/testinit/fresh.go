package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fresh looks at what lives for one boot, in roots that have the folder
// /scratch: a volume mounted there, and swap. Then it writes the word in the
// file /canary to both. The word itself is never said.
func fresh() {
	word, err := os.ReadFile("/canary")
	if err != nil {
		return
	}
	entries, err := os.ReadDir("/scratch")
	say("scratch holds %v %v", entries, err)
	device := mounted("/scratch")
	say("scratch's device holds the word: %v", holds(device, word))
	say("scratch written: %v", os.WriteFile("/scratch/file", bytes.Repeat(word, 4096/len(word)*64), 0o600))
	var fs unix.Statfs_t
	for _, dir := range []string{"/", "/scratch", "/data"} {
		if err := unix.Statfs(dir, &fs); err == nil {
			say("%s has %d MiB", dir, int64(fs.Blocks)*int64(fs.Bsize)>>20)
		}
	}
	unix.Sync()
	say("scratch's device, written, holds the word: %v", holds(device, word))
	say("swapped: %s", swapOut(word))
	dump("/proc/swaps")
	say("fresh is done")
}

// mounted returns the device that is mounted on a folder.
func mounted(dir string) string {
	text, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == dir {
			return filepath.Clean(f[0])
		}
	}
	return ""
}

// holds tells whether a device holds a word, read from the disk.
func holds(device string, word []byte) string {
	f, err := os.Open(device)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	b, tail := make([]byte, 1<<20), []byte(nil)
	for {
		n, err := f.Read(b)
		if bytes.Contains(append(tail, b[:n]...), word) {
			return "yes"
		}
		if err != nil || n == 0 {
			return "no"
		}
		tail = bytes.Clone(b[max(0, n-len(word)):n])
	}
}

// swapOut has pages of the word written to swap, and reads them again.
func swapOut(word []byte) string {
	const size = 4 << 20
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err.Error()
	}
	for at := 0; at < size; at += 4096 {
		copy(pages[at:], fmt.Sprintf("%s%d", word, at))
	}
	if err := unix.Madvise(pages, unix.MADV_PAGEOUT); err != nil {
		return err.Error()
	}
	_, used, _ := strings.Cut(swaps(), " used ")
	for at := 0; at < size; at += 4096 {
		if want := fmt.Sprintf("%s%d", word, at); string(pages[at:at+len(want)]) != want {
			return "pages came back changed"
		}
	}
	return "used before they came back " + used
}

// swaps says what of swap is in use, in KiB.
func swaps() string {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	f := strings.Fields(lines[len(lines)-1])
	if len(f) < 4 {
		return "none"
	}
	return fmt.Sprintf("%s of %s KiB used %s KiB", f[0], f[2], f[3])
}
