package seimage

import (
	"fmt"
	"sort"

	"github.com/secexec/secexec/seimage/bootloader"
)

// Region is a part of guest memory.
type Region struct {
	Name string `json:"name"`
	Addr uint64 `json:"address"`
	Size uint64 `json:"size"` // bytes that it has or keeps free
	Used uint64 `json:"used"` // bytes of them that count
	Kind Kind   `json:"kind"`
}

// End is the address behind the region.
func (r Region) End() uint64 { return r.Addr + r.Size }

// Kind tells who vouches for a region's bytes.
type Kind string

// Kinds of regions.
const (
	PlainText Kind = "plain text" // nobody does: the host may change them
	Authentic Kind = "own tag"    // the SE header, by its own tag
	Protected Kind = "protected"  // the ultravisor, by the digests; encrypted unless the image says otherwise
)

// Map is an image's layout in guest memory.
type Map struct {
	Image []Region `json:"image"`       // as in the file, in address order
	After []Region `json:"after_start"` // once stage3b has left, in address order
}

// cmdlineArea is where the kernel finds its command line.
const cmdlineArea = kernelStart + 0x480

// Map lays the opened image out. It believes what the image says of itself.
func (img *Image) Map() Map {
	var m Map
	add := func(name string, addr, size, used uint64, kind Kind) {
		if size > 0 {
			m.Image = append(m.Image, Region{name, addr, size, used, kind})
		}
	}
	add("short PSW", PSWAddr, 8, 8, PlainText)
	if !img.Legacy {
		add("metadata", MetadataAddr, metadataSize, metadataSize, PlainText)
	}
	if img.HeaderAddr > Stage3aAddr && img.ArgsAddr > Stage3aAddr {
		end := img.ArgsAddr + bootloader.Stage3aArgsSize
		add("entry of zipl's loader", EntryAddr, Stage3aAddr-EntryAddr, Stage3aAddr-EntryAddr, PlainText)
		add("stage3a", Stage3aAddr, end-Stage3aAddr, end-Stage3aAddr, PlainText)
	}
	size := uint64(img.Header.Size())
	add("SE header", img.HeaderAddr, img.headerRoom(size), size, Authentic)
	add("IPIB", img.IPIBAddr, uint64(img.IPIB.Size()), uint64(img.IPIB.Size()), PlainText)
	for i, c := range img.IPIB.Components {
		add(img.ComponentName(i), c.Addr, c.Size, c.Size, Protected)
	}
	sort.SliceStable(m.Image, func(i, j int) bool { return m.Image[i].Addr < m.Image[j].Addr })
	m.After = img.afterStart()
	return m
}

// headerRoom is how large the header may grow before it meets what comes next.
func (img *Image) headerRoom(size uint64) uint64 {
	room := uint64(MaxHeaderSize)
	for _, c := range img.IPIB.Components {
		if c.Addr > img.HeaderAddr {
			room = min(room, c.Addr-img.HeaderAddr)
		}
	}
	if img.IPIBAddr > img.HeaderAddr {
		room = min(room, img.IPIBAddr-img.HeaderAddr)
	}
	return max(room, size)
}

// afterStart is what stage3b leaves: the kernel from its 64th KiB on at 0x10000,
// the command line in it, the initrd where it was.
func (img *Image) afterStart() (out []Region) {
	for i, c := range img.IPIB.Components {
		switch img.ComponentName(i) {
		case "kernel":
			if c.Size > kernelStart {
				out = append(out, Region{"kernel", kernelStart, c.Size - kernelStart, c.Size - kernelStart, Protected})
			}
		case "command line":
			out = append(out, Region{"command line", cmdlineArea, c.Size, c.Size, Protected})
		case "initrd":
			out = append(out, Region{"initrd", c.Addr, c.Size, c.Size, Protected})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Addr < out[j].Addr })
	return out
}

// ComponentName tells from a component's tweak what it is. The first two bytes
// of a tweak are free to choose; pvimg and we use the kinds, the older C tool
// its own 0 to 3.
func (img *Image) ComponentName(i int) string {
	kind := img.IPIB.Components[i].TweakPrefix >> 48
	names := map[uint64]string{KindKernel: "kernel", KindInitrd: "initrd", KindCmdline: "command line", KindStage3b: "stage3b"}
	if img.Legacy {
		names = map[uint64]string{0: "kernel", 1: "command line", 2: "initrd", 3: "stage3b"}
	}
	if name, ok := names[kind]; ok {
		return name
	}
	return fmt.Sprintf("component %d", i)
}

// Bytes writes a number of bytes for people: exact under a page and in whole
// pages, else to three digits.
func Bytes(n uint64) string {
	switch {
	case n < 10<<10 && n%1024 != 0, n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20 && n%1024 == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
