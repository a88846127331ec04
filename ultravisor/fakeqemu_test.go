package ultravisor

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
)

// event is what a fake guest comes to next: an instruction, with these general
// registers as it gets there.
type event struct {
	addr uint64
	regs map[int]uint64
	do   func() // what the guest has done by then, may be nil
}

// fakeQEMU is a gdb stub with a guest that goes through a list of events. As
// the real one it stops only where a breakpoint is.
type fakeQEMU struct {
	t      *testing.T
	mem    RAM
	events []event
	last   string // stop reply when there are no more events; empty: QEMU dies
	dieAt  int    // dies instead of answering this packet, counted from 1
	hang   bool   // says nothing in place of the last reply

	regs     [18]uint64 // as gdb numbers them
	traps    map[uint64]bool
	stepped  []uint64 // instructions that the machine itself carried out
	detached bool
	packets  int

	done chan struct{}
}

// start serves the stub and returns the client's end. Fields may be looked at
// after wait.
func (q *fakeQEMU) start() net.Conn {
	q.traps, q.done = make(map[uint64]bool), make(chan struct{})
	client, stub := net.Pipe()
	q.t.Cleanup(func() { client.Close(); stub.Close() })
	go func() {
		defer close(q.done)
		defer stub.Close()
		for r := bufio.NewReader(stub); ; {
			command, err := r.ReadString('#')
			if err != nil {
				return
			}
			if _, err := r.Discard(2); err != nil {
				return
			}
			command = strings.Trim(command, "+$#")
			q.packets++
			if q.packets == q.dieAt {
				return
			}
			reply, ok := q.answer(command)
			if !ok {
				return
			}
			s := byte(0)
			for i := range len(reply) {
				s += reply[i]
			}
			if _, err := fmt.Fprintf(stub, "+$%s#%02x", reply, s); err != nil {
				return
			}
			if _, err := r.ReadByte(); err != nil || q.detached {
				return
			}
		}
	}()
	return client
}

// wait waits for the stub's end, which the client's Close brings about.
func (q *fakeQEMU) wait() { <-q.done }

func (q *fakeQEMU) answer(command string) (reply string, ok bool) {
	var n, size int
	var v uint64
	switch {
	case strings.HasPrefix(command, "q"):
		return "l<target/>", true
	case command == "c":
		for len(q.events) > 0 {
			e := q.events[0]
			q.events = q.events[1:]
			q.regs[regAddr] = e.addr
			if e.do != nil {
				e.do()
			}
			for r, v := range e.regs {
				q.regs[regGeneral+r] = v
			}
			if q.traps[e.addr] {
				return "T05thread:p01.01;", true
			}
		}
		if q.hang {
			<-q.t.Context().Done()
		}
		return q.last, q.last != ""
	case command == "s":
		q.step()
		return "T05thread:p01.01;", true
	case command == "D":
		q.detached = true
		return "OK", true
	case scan(command, "p%x", &n):
		return fmt.Sprintf("%016x", q.regs[n]), true
	case scan(command, "P%x=%x", &n, &v):
		q.regs[n] = v
		return "OK", true
	case scan(command, "Z0,%x,%x", &v, &size):
		q.traps[v] = true
		return "OK", true
	case scan(command, "z0,%x,%x", &v, &size):
		if !q.traps[v] {
			return "E22", true
		}
		delete(q.traps, v)
		return "OK", true
	}
	q.t.Errorf("client says %q", command)
	return "", true
}

func scan(s, format string, into ...any) bool {
	n, err := fmt.Sscanf(s, format, into...)
	return n == len(into) && err == nil
}

// step carries out one instruction: STFLE stores ones but for facility 161;
// anything else does nothing.
func (q *fakeQEMU) step() {
	addr := q.regs[regAddr]
	if q.traps[addr] {
		q.t.Errorf("step at 0x%x with a breakpoint on it goes nowhere", addr)
	}
	q.stepped = append(q.stepped, addr)
	q.regs[regAddr] += 4
	w := instruction(binary.BigEndian.Uint32(q.mem[addr:]))
	if !w.stfle() {
		return
	}
	list := uint64(w & 0xfff)
	if base := w >> 12 & 15; base != 0 {
		list += q.regs[regGeneral+base]
	}
	for i := range 8 * (q.regs[regGeneral]&0xff + 1) {
		if list+i < uint64(len(q.mem)) {
			q.mem[list+i] = 0xff
		}
	}
	if at := list + unpackFacility/8; at < uint64(len(q.mem)) {
		q.mem[at] &^= 0x80 >> (unpackFacility % 8)
	}
}
