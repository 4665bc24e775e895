package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/kernel"
)

// Our filters: first in priority, with one of two handles that tell them from
// others.
const (
	filterPriority = 1
	filterHandle   = 0x7462 // "tb"
	filterHandle2  = 0x7463
	filterPrefix   = "torbpf/"
)

// attachClsact attaches a program as a filter of the clsact qdisc, which is
// added where missing. A filter of ours that is there is replaced atomically.
// Behind one that somebody has put ahead of it a program may be skipped: then
// a new filter is added, which the kernel puts in front, before the old goes.
// In between, packets that were past the front when it came must reach the old.
func (d *Datapath) attachClsact(h hook, program *ebpf.Program) error {
	l, err := netlink.LinkByIndex(h.ifindex)
	if err != nil {
		return fmt.Errorf("find interface: %w", err)
	}
	if err := d.addClsact(l); err != nil {
		return err
	}
	filters, err := filtersAt(l, h.parent())
	if err != nil {
		return err
	}
	if err := refuseOtherKind(l, h, filters); err != nil {
		return err
	}
	return replaceFilter(h.filter(program), filters)
}

// replaceFilter puts a filter in the place of ours among filters, or ahead of
// all of them where somebody else is first.
func replaceFilter(filter *netlink.BpfFilter, filters []netlink.Filter) error {
	old := ours(filters)
	for len(old) > 1 { // a killed process left two; the first has judged what the second sees
		last := len(old) - 1
		if err := netlink.FilterDel(old[last]); err != nil {
			return fmt.Errorf("remove clsact filter: %w", err)
		}
		old = old[:last]
	}
	first := len(old) == 0 || isOurs(filters[0])
	if len(old) > 0 {
		filter.Handle = old[0].Handle
	}
	if !first {
		filter.Handle ^= filterHandle ^ filterHandle2
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("replace clsact filter: %w", err)
	}
	if first {
		return nil
	}
	if err := awaitPackets(); err != nil {
		return err
	}
	if err := netlink.FilterDel(old[0]); err != nil {
		return fmt.Errorf("remove clsact filter: %w", err)
	}
	return nil
}

// refuseOtherKind looks for a classifier of another kind at our priority,
// which the kernel gives to one kind only. What it accepts would never come to
// us, so a later priority is no way out.
func refuseOtherKind(l netlink.Link, h hook, filters []netlink.Filter) error {
	direction := "ingress"
	if h.egress {
		direction = "egress"
	}
	name := l.Attrs().Name
	for _, f := range filters {
		a := f.Attrs()
		if a.Priority == filterPriority && (f.Type() != "bpf" || a.Protocol != unix.ETH_P_ALL) {
			return fmt.Errorf("add clsact filter: a %s filter of somebody else has priority %d, where torbpf's must be: "+
				"give it a later one (tc filter show dev %s %s)", f.Type(), filterPriority, name, direction)
		}
	}
	return nil
}

func (h hook) parent() uint32 {
	if h.egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func (h hook) filter(program *ebpf.Program) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: h.ifindex,
			Parent:    h.parent(),
			Handle:    filterHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  filterPriority,
		},
		Fd:           program.FD(),
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
	filters, err := filtersAt(l, h.parent())
	if err != nil {
		return err
	}
	removed := false
	for _, f := range ours(filters) {
		if f.Name != filterPrefix+h.kind {
			continue
		}
		if err := netlink.FilterDel(f); err != nil {
			return fmt.Errorf("remove clsact filter from %s: %w", h, err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return d.removeEmptyClsact(l)
}

// clsactHooks finds the hooks with a filter of ours on any interface.
func clsactHooks() ([]hook, error) {
	links, err := kernel.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var hooks []hook
	for _, l := range links {
		filters, err := linkFilters(l)
		if err != nil {
			return nil, err
		}
		for _, f := range ours(filters) {
			hooks = append(hooks, newHook(strings.TrimPrefix(f.Name, filterPrefix), l.Attrs().Index))
		}
	}
	return hooks, nil
}

// ours picks our filters.
func ours(filters []netlink.Filter) []*netlink.BpfFilter {
	var out []*netlink.BpfFilter
	for _, f := range filters {
		if isOurs(f) {
			out = append(out, f.(*netlink.BpfFilter))
		}
	}
	return out
}

func isOurs(f netlink.Filter) bool {
	bpf, ok := f.(*netlink.BpfFilter)
	return ok && (bpf.Handle == filterHandle || bpf.Handle == filterHandle2) && strings.HasPrefix(bpf.Name, filterPrefix)
}

// linkFilters lists all filters on both directions of an interface.
func linkFilters(l netlink.Link) ([]netlink.Filter, error) {
	ingress, err := filtersAt(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, err
	}
	egress, err := filtersAt(l, netlink.HANDLE_MIN_EGRESS)
	return append(ingress, egress...), err
}

func filtersAt(l netlink.Link, parent uint32) ([]netlink.Filter, error) {
	filters, err := kernel.Whole(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
	if err != nil {
		return nil, fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
	}
	return filters, nil
}
