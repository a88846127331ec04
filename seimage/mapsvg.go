package seimage

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Sizes of the drawing, in pixels.
const (
	svgWidth   = 920
	svgTop     = 64
	svgHeight  = 720 // of the columns
	svgColumn  = 210 // width of one
	svgLeft    = 130 // left edge of the image's column
	svgRight   = 500 // left edge of the other
	svgLeast   = 20  // height of a part too small to be to scale
	svgLeastNo = 10  // of a gap
)

var svgFill = map[Kind]string{PlainText: "#d9dee5", Authentic: "#f3cf7a", Protected: "#9fd3b0"}

// band is a range of addresses with its place in the drawing. Between its ends
// addresses are spread evenly, so both columns can use it.
type band struct {
	from, to uint64
	y, h     float64
	region   *Region // nil: a gap
	exact    bool    // drawn to scale
}

// SVG draws the map: left the image, right what stage3b leaves, at the same
// heights. Parts are to scale, but for those too small to be seen, whose left
// edge is dashed.
func (m Map) SVG(w io.Writer) error {
	bands := m.bands()
	var b strings.Builder
	height := svgTop + svgHeight + 76
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#1d2733">
<title>Memory layout of an SE boot image</title>
<defs>
<pattern id="gap" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><line x1="0" y1="0" x2="0" y2="6" stroke="#dde1e6" stroke-width="2"/></pattern>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#5b6775"/></marker>
</defs>
<rect width="%d" height="%d" fill="#fff"/>
<text x="%d" y="34" text-anchor="middle" font-size="15" font-weight="bold">In the image</text>
<text x="%d" y="34" text-anchor="middle" font-size="15" font-weight="bold">Once stage3b has run</text>
`, svgWidth, height, svgWidth, height, svgWidth, height, svgLeft+svgColumn/2, svgRight+svgColumn/2)
	for _, c := range bands {
		drawBand(&b, c)
	}
	last := bands[len(bands)-1]
	svgAddress(&b, svgLeft-8, last.y+last.h+12, last.to)
	m.drawAfter(&b, bands)
	drawLegend(&b, svgTop+svgHeight+38)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// bands gives each part and each gap its place. The scale is the largest that
// fits when small ones have their least height.
func (m Map) bands() (out []band) {
	var end uint64
	for i := range m.Image {
		r := &m.Image[i]
		if r.Addr > end {
			out = append(out, band{from: end, to: r.Addr})
		}
		from := max(r.Addr, end)
		if r.End() <= from {
			continue // inside the one before: only a forged image has that
		}
		out = append(out, band{from: from, to: r.End(), region: r})
		end = r.End()
	}
	low, high := 0.0, float64(svgHeight)
	for range 200 { // bisection
		scale := (low + high) / 2
		if place(out, scale) > svgHeight {
			high = scale
		} else {
			low = scale
		}
	}
	place(out, low)
	return out
}

// place sets heights for a scale in pixels per byte, and returns their sum.
func place(bands []band, scale float64) float64 {
	y := float64(svgTop)
	for i := range bands {
		c := &bands[i]
		c.y, c.h = y, scale*float64(c.to-c.from)
		least := float64(svgLeast)
		if c.region == nil {
			least = svgLeastNo
		}
		c.exact = c.h >= least
		c.h = max(c.h, least)
		y += c.h
	}
	return y - svgTop
}

// yOf is the height of an address.
func yOf(bands []band, addr uint64) float64 {
	for _, c := range bands {
		if addr <= c.to {
			return c.y + c.h*float64(addr-c.from)/float64(c.to-c.from)
		}
	}
	last := bands[len(bands)-1]
	return last.y + last.h
}

func drawBand(b *strings.Builder, c band) {
	if c.region == nil {
		fmt.Fprintf(b, `<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="url(#gap)" stroke="#b8c0c9"/>`+"\n", svgLeft, c.y, svgColumn, c.h)
		if c.h >= 14 {
			svgText(b, svgLeft+svgColumn-8, c.y+c.h/2+4, "end", "#7b8794", Bytes(c.to-c.from)+" unused")
		}
		return
	}
	r := c.region
	svgPart(b, svgLeft, c.y, c.h, *r)
	if used := c.h * float64(r.Used) / float64(r.Size); r.Used < r.Size && c.h-used > 1 {
		fmt.Fprintf(b, `<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="#fff" fill-opacity="0.55"/>`+"\n", svgLeft+1, c.y+used, svgColumn-2, c.h-used-1)
	}
	if !c.exact {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#fff" stroke-width="3" stroke-dasharray="3 3"/>`+"\n", svgLeft, c.y, svgLeft, c.y+c.h)
	}
	svgAddress(b, svgLeft-8, c.y+11, c.from)
	size := Bytes(r.Size)
	if r.Used < r.Size {
		size = Bytes(r.Used) + " of " + size
	}
	svgText(b, svgLeft+8, c.y+min(c.h/2+4, 16), "start", "#1d2733", r.Name)
	svgText(b, svgLeft+svgColumn-8, c.y+min(c.h/2+4, 16), "end", "#44505c", size)
}

// drawAfter draws the right column and the way of each part into it.
func (m Map) drawAfter(b *strings.Builder, bands []band) {
	last := bands[len(bands)-1]
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%.1f" fill="url(#gap)" stroke="#b8c0c9"/>`+"\n", svgRight, svgTop, svgColumn, last.y+last.h-svgTop)
	for _, r := range m.After {
		top, bottom := yOf(bands, r.Addr), yOf(bands, r.End())
		label := r.Name
		if r.Name == "command line" { // within the kernel, and small
			bottom = top + 3
			fmt.Fprintf(b, `<rect x="%d" y="%.1f" width="%d" height="3" fill="#2f6f4a"/>`+"\n", svgRight, top, svgColumn)
			svgText(b, svgRight+svgColumn+8, top+8, "start", "#1d2733", fmt.Sprintf("command line at 0x%x", r.Addr))
		} else {
			svgPart(b, svgRight, top, bottom-top, r)
			svgText(b, svgRight+8, top+min((bottom-top)/2+4, 32), "start", "#1d2733", label)
			svgText(b, svgRight+svgColumn-8, top+min((bottom-top)/2+4, 32), "end", "#44505c", Bytes(r.Size))
			svgAddressRight(b, svgRight+svgColumn+8, top-3, r)
		}
		for _, c := range bands {
			if c.region == nil || c.region.Name != r.Name || c.region.Kind != Protected {
				continue
			}
			from, to := c.y+c.h/2, (top+bottom)/2
			middle := (svgLeft + svgColumn + svgRight) / 2
			fmt.Fprintf(b, `<path d="M%d,%.1f C%d,%.1f %d,%.1f %d,%.1f" fill="none" stroke="#5b6775" stroke-width="1.3" marker-end="url(#tip)"/>`+"\n",
				svgLeft+svgColumn, from, middle, from, middle, to, svgRight-1, to)
		}
	}
}

func svgPart(b *strings.Builder, x int, y, h float64, r Region) {
	fmt.Fprintf(b, `<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="%s" stroke="#5b6775"/>`+"\n", x, y, svgColumn, h, svgFill[r.Kind])
}

func svgText(b *strings.Builder, x int, y float64, anchor, fill, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(text))
}

func svgAddress(b *strings.Builder, x int, y float64, addr uint64) {
	fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end" font-family="monospace" fill="#44505c">0x%08x</text>`+"\n", x, y, addr)
}

// svgAddressRight names where a part of the right column begins and ends.
func svgAddressRight(b *strings.Builder, x int, y float64, r Region) {
	fmt.Fprintf(b, `<text x="%d" y="%.1f" font-family="monospace" fill="#44505c">0x%08x</text>`+"\n", x, y, r.Addr)
}

func drawLegend(b *strings.Builder, y int) {
	x := svgLeft
	for _, k := range []struct {
		kind Kind
		text string
	}{{PlainText, "plain text"}, {Authentic, "authentic by its own tag"}, {Protected, "protected by the digests"}} {
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="14" height="14" fill="%s" stroke="#5b6775"/>`+"\n", x, y-11, svgFill[k.kind])
		svgText(b, x+20, float64(y), "start", "#1d2733", k.text)
		x += 40 + 7*len(k.text)
	}
	svgText(b, svgLeft, float64(y+22), "start", "#7b8794", "To scale, but for parts with a dashed left edge and short gaps: they are smaller than drawn.")
}
