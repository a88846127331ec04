package seimage

import (
	"fmt"
	"io"
	"strings"
)

// barWidth is the longest bar, in characters; each has eight steps.
const barWidth = 24

// Text draws the map in lines, each with a bar to scale.
func (m Map) Text(w io.Writer) error {
	var b strings.Builder
	b.WriteString("In the image, which is guest memory from address 0:\n\n")
	drawRegions(&b, m.Image)
	b.WriteString("\nOnce stage3b has moved the kernel and started it:\n\n")
	drawRegions(&b, m.After)
	_, err := io.WriteString(w, b.String())
	return err
}

func drawRegions(b *strings.Builder, regions []Region) {
	var largest, end uint64
	for _, r := range regions {
		largest = max(largest, r.Size)
	}
	fmt.Fprintf(b, "%10s  %9s  %-*s  %-22s  %s\n", "address", "size", barWidth, "to scale", "part", "vouched for")
	for _, r := range regions {
		if r.Addr > end {
			fmt.Fprintf(b, "%10s  %9s\n", "", "· "+Bytes(r.Addr-end))
		}
		name, inside := r.Name, ""
		if r.Addr < end {
			inside = ", in the part above"
		}
		if r.Used < r.Size {
			inside += ", " + Bytes(r.Used) + " used"
		}
		line := fmt.Sprintf("0x%08x  %9s  %s  %-22s  %s%s", r.Addr, Bytes(r.Size), bar(r.Size, largest), name, r.Kind, inside)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		end = max(end, r.End())
	}
	fmt.Fprintf(b, "0x%08x\n", end)
}

// bar is size of largest in eighths of characters, at least one, padded.
func bar(size, largest uint64) string {
	eighths := max(1, int(float64(size)/float64(largest)*barWidth*8+0.5))
	full, rest := eighths/8, eighths%8
	s := strings.Repeat("█", full)
	if rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
		full++
	}
	return s + strings.Repeat(" ", barWidth-full)
}
