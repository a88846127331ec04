package main

import (
	"bytes"
	"fmt"
)

// bar is a ratio with a name.
type bar struct {
	name  string
	ratio float64
}

// drawBars draws ratios, with a line at 1. Bars longer than maxRatio are cut.
func drawBars(title string, bars []bar) []byte {
	var out bytes.Buffer
	width, height := labels+maxRatio*unit+60, 40+rowHeight*len(bars)
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	text(&out, labels, 18, "start", title)
	for i, b := range bars {
		y := 30 + i*rowHeight
		length := min(b.ratio, maxRatio) * unit
		text(&out, labels-8, y+13, "end", b.name)
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labels, y+2, length, rowHeight-4, colours["secexec"])
		text(&out, labels+int(length)+6, y+13, "start", fmt.Sprintf("%.2f", b.ratio))
	}
	fmt.Fprintf(&out, `<line x1="%d" y1="24" x2="%d" y2="%d" stroke="#d29922"/>`+"\n</svg>\n", labels+unit, labels+unit, height-6)
	return out.Bytes()
}
