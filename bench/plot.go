package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// Sizes of the plot in pixels.
const (
	rowHeight = 18
	groupGap  = 14
	labels    = 330 // width of the names
	unit      = 130 // width of a ratio of 1
	maxRatio  = 5   // longer bars are cut, with their number beside them
)

// colours of contestants; ours is the first.
var colours = map[string]string{"secexec": "#1f6feb", "pvimg": "#d29922", "sha512": "#8b949e", "openssl": "#b8bec6", "cp": "#8b949e"}

// plot draws, for each group, how long each contestant took as a multiple of
// secexec's time.
func plot(groups []*group) []byte {
	var body bytes.Buffer
	y := 30
	for _, g := range groups {
		if len(g.Contestants) < 2 {
			continue
		}
		for i, c := range g.Contestants {
			ratio := c.wall() / g.Contestants[0].wall()
			if i == 0 {
				text(&body, labels-90, y+13, "end", g.Name)
			}
			text(&body, labels-8, y+13, "end", c.Label)
			fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labels, y+2, min(ratio, maxRatio)*unit, rowHeight-4, colours[c.Label])
			text(&body, labels+int(min(ratio, maxRatio)*unit)+6, y+13, "start", fmt.Sprintf("%.2f", ratio))
			y += rowHeight
		}
		y += groupGap
	}
	var out bytes.Buffer
	width := labels + maxRatio*unit + 60
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, y+10)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, y+10)
	text(&out, labels, 18, "start", "time as a multiple of secexec's: longer is slower")
	for n := 1; n <= maxRatio; n++ {
		fmt.Fprintf(&out, `<line x1="%d" y1="24" x2="%d" y2="%d" stroke="#e1e4e8"/>`+"\n", labels+n*unit, labels+n*unit, y)
	}
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func text(w *bytes.Buffer, x, y int, anchor, s string) {
	fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="%s">`, x, y, anchor)
	_ = xml.EscapeText(w, []byte(s))
	w.WriteString("</text>\n")
}
