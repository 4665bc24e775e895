package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our filters: first in priority, with a handle that tells them from others.
const (
	filterPriority = 1
	filterHandle   = 0x7462 // "tb"
	filterPrefix   = "torbpf/"
)

// attachClsact attaches a program as a filter of the clsact qdisc, which is
// added where missing. A filter that is there is replaced atomically.
func (d *Datapath) attachClsact(h hook, program *ebpf.Program) error {
	if err := d.addClsact(h); err != nil {
		return err
	}
	filter := h.filter()
	filter.Fd = program.FD()
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("replace clsact filter: %w", err)
	}
	return nil
}

// addClsact adds the qdisc where missing. An empty directory among the pins
// remembers that it is ours, so that a user's own one stays at detach.
func (d *Datapath) addClsact(h hook) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: h.ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	err := netlink.QdiscAdd(qdisc)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add clsact qdisc: %w", err)
	}
	if err := os.MkdirAll(d.qdiscMark(h.ifindex), 0o700); err != nil {
		return errors.Join(fmt.Errorf("remember clsact qdisc: %w", err), netlink.QdiscDel(qdisc))
	}
	return nil
}

func (d *Datapath) qdiscMark(ifindex int) string {
	return filepath.Join(d.dir, "qdiscs", strconv.Itoa(ifindex))
}

func (h hook) filter() *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if h.egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: h.ifindex,
			Parent:    parent,
			Handle:    filterHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  filterPriority,
		},
		Name:         filterPrefix + h.kind,
		DirectAction: true,
	}
}

// detachClsact removes our filter from a hook. A qdisc that we added goes with
// our last filter, unless somebody else has put a filter there since.
func (d *Datapath) detachClsact(h hook) error {
	l, err := netlink.LinkByIndex(h.ifindex)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %d: %w", h.ifindex, err)
	}
	filters, err := linkFilters(l)
	if err != nil {
		return err
	}
	removed := false
	for _, f := range filters {
		if f.Name == filterPrefix+h.kind {
			if err := netlink.FilterDel(h.filter()); err != nil {
				return fmt.Errorf("remove clsact filter from %s: %w", h, err)
			}
			removed = true
		}
	}
	if !removed {
		return nil
	}
	return d.removeEmptyClsact(l)
}

func (d *Datapath) removeEmptyClsact(l netlink.Link) error {
	mark := d.qdiscMark(l.Attrs().Index)
	if _, err := os.Stat(mark); err != nil {
		return nil // the user's own
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
		}
		if len(filters) > 0 {
			return nil
		}
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		if err := netlink.QdiscDel(q); err != nil {
			return fmt.Errorf("remove clsact qdisc of %s: %w", l.Attrs().Name, err)
		}
	}
	return os.Remove(mark)
}

// linkFilters lists our filters on both directions of an interface.
func linkFilters(l netlink.Link) ([]*netlink.BpfFilter, error) {
	var ours []*netlink.BpfFilter
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			return nil, fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
		}
		for _, f := range filters {
			bpf, ok := f.(*netlink.BpfFilter)
			if ok && bpf.Handle == filterHandle && strings.HasPrefix(bpf.Name, filterPrefix) {
				ours = append(ours, bpf)
			}
		}
	}
	return ours, nil
}

// clsactHooks finds the hooks with a filter of ours on any interface.
func clsactHooks() ([]hook, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var hooks []hook
	for _, l := range links {
		filters, err := linkFilters(l)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			kind := strings.TrimPrefix(f.Name, filterPrefix)
			hooks = append(hooks, hook{kind: kind, ifindex: l.Attrs().Index, egress: kind != "lan"})
		}
	}
	return hooks, nil
}
