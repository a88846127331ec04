package podnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// priority is that of our filters: they are known by it.
const priority = 0x5ec

var ingress = netlink.MakeHandle(0xffff, 0)

// redirect leads all that arrives at one interface out by another: a filter that
// matches everything (u32, which kernels have had the longest), at the hook that
// comes before all protocols.
func redirect(h *netlink.Handle, from, to netlink.Link) error {
	qdiscs, err := h.QdiscList(from)
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	there := false
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			return unfit("another program filters what arrives there (clsact)")
		}
		there = there || q.Type() == "ingress"
	}
	if !there {
		q := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: from.Attrs().Index, Handle: ingress, Parent: netlink.HANDLE_INGRESS}}
		if err := h.QdiscAdd(q); err != nil {
			return fmt.Errorf("add ingress hook: %w", err)
		}
	}
	ours, others, err := filters(h, from)
	switch {
	case err != nil:
		return err
	case len(others) > 0:
		return unfit("another program filters what arrives there (%s)", others[0].Type())
	}
	for _, f := range ours {
		if target(f) == to.Attrs().Index {
			return nil
		}
		if err := h.FilterDel(f); err != nil { // an earlier tap's
			return fmt.Errorf("remove filter: %w", err)
		}
	}
	err = h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: ingress, Priority: priority, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	})
	if err != nil {
		return fmt.Errorf("add filter: %w: load the kernel modules cls_u32 and act_mirred", err)
	}
	return nil
}

// release takes our filters away, and the hook with the last of all.
func release(h *netlink.Handle, link netlink.Link) error {
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() != "ingress" {
			continue
		}
		ours, others, err := filters(h, link)
		if err != nil {
			return err
		}
		for _, f := range ours {
			if err := h.FilterDel(f); err != nil {
				return fmt.Errorf("remove filter: %w", err)
			}
		}
		if len(others) == 0 { // also one that a join made and died
			if err := h.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove ingress hook: %w", err)
			}
		}
	}
	return nil
}

// filters are those of what arrives at an interface: ours, and other programs'.
func filters(h *netlink.Handle, link netlink.Link) (ours, others []netlink.Filter, err error) {
	all, err := h.FilterList(link, ingress)
	if err != nil {
		return nil, nil, fmt.Errorf("list filters: %w", err)
	}
	for _, f := range all {
		if u, ok := f.(*netlink.U32); f.Attrs().Priority != priority || !ok {
			others = append(others, f)
		} else if u.Sel != nil { // an entry, and none of the tables above it
			ours = append(ours, f)
		}
	}
	return ours, others, nil
}

// target is the index of the interface that a filter of ours leads to.
func target(f netlink.Filter) int {
	if u, ok := f.(*netlink.U32); ok {
		for _, a := range u.Actions {
			if m, ok := a.(*netlink.MirredAction); ok {
				return m.Ifindex
			}
		}
	}
	return 0
}
