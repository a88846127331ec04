package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/network"
)

// describe takes the host's description into the plan.
func (i *Interface) describe(ctx context.Context) (ways described, err error) {
	d, err := readDescription(ctx, i.port)
	if err != nil {
		return ways, err
	}
	i.plan, ways = merge(i.plan, d)
	i.ndots = d.Ndots
	return ways, nil
}

// readDescription reads one description from the host's port and closes it: what
// comes after is not read. The port may appear late, and there may be nobody
// behind it yet, or ever.
func readDescription(ctx context.Context, open func() (int, error)) (*network.Description, error) {
	fd := -1
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	b, want := make([]byte, 0, network.MaxSize), network.HeaderSize
	var why error
	for len(b) < want {
		n := 0
		if fd < 0 {
			fd, why = open()
		}
		if fd >= 0 {
			n, why = unix.Read(fd, b[len(b):want])
		}
		switch {
		case fd >= 0 && why != nil && !errors.Is(why, unix.EAGAIN) && !errors.Is(why, unix.EINTR):
			return nil, fmt.Errorf("%w: %w", ErrNoDescription, why)
		case n <= 0:
			if !pause(ctx, lookEvery) {
				return nil, fmt.Errorf("%w: %d bytes came", ErrNoDescription, len(b))
			}
			continue
		}
		if b = b[:len(b)+n]; len(b) == network.HeaderSize {
			if want, why = network.Size(b); why != nil {
				return nil, fmt.Errorf("%w: %w", ErrDescription, why)
			}
		}
	}
	d, err := network.Unmarshal(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDescription, err)
	}
	return d, nil
}

// lead sets described routes, and the hardware addresses of gateways that answer
// no question for them.
func (i *Interface) lead(ways described) error {
	for _, g := range ways.gateways {
		if g.MAC == [macSize]byte{} {
			continue
		}
		err := i.kernel.do(func(o binary.ByteOrder, seq uint32) []byte { return setNeighbour(o, seq, i.index, g.Address, g.MAC) })
		if err != nil {
			return fmt.Errorf("set hardware address of %s: %w", g.Address, err)
		}
	}
	for _, r := range ways.routes {
		if err := i.route(r.To, r.Via, protoBoot); err != nil {
			return err
		}
	}
	return nil
}
