package readiness

// MaxOut bounds the bytes that wait for the other end to read; what comes then is
// dropped.
const MaxOut = 16 << 10

// Outbox holds lines until the port takes them. It never writes half a line and
// then another: what is begun is finished.
type Outbox struct {
	Dropped uint64 // lines for which there was no room

	lines [][]byte // each with its line feed
	begun int      // bytes written of the first
	size  int
}

// Put adds a line.
func (o *Outbox) Put(m Message) {
	line := append([]byte(m.String()), '\n')
	if o.size+len(line) > MaxOut {
		o.Dropped++
		return
	}
	o.lines, o.size = append(o.lines, line), o.size+len(line)
}

// Pending is what to write next, nil for nothing.
func (o *Outbox) Pending() []byte {
	if len(o.lines) == 0 {
		return nil
	}
	return o.lines[0][o.begun:]
}

// Wrote says that so many bytes of Pending were taken.
func (o *Outbox) Wrote(n int) {
	if o.begun += n; len(o.lines) > 0 && o.begun >= len(o.lines[0]) {
		o.size -= len(o.lines[0])
		o.lines, o.begun = o.lines[1:], 0
	}
}

// HungUp drops what nobody will read, but the end of a line begun: its beginning
// may be on its way still.
func (o *Outbox) HungUp() {
	keep := 0
	if o.begun > 0 {
		keep = 1
	}
	for _, line := range o.lines[keep:] {
		o.size -= len(line)
	}
	o.lines = o.lines[:keep]
}
