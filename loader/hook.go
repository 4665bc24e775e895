package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// The kinds of hooks: what a LAN sends, what it is sent, what leaves by an uplink.
const (
	KindLAN    = "lan"
	KindOut    = "lan_out"
	KindUplink = "uplink"
	KindFast   = "uplink_in" // what comes in by one, where there is a fast path
)

// hook is one place where a program is attached: a direction of an interface.
// Its kind begins the name of its pin.
type hook struct {
	kind    string
	ifindex int
	egress  bool
}

func newHook(kind string, ifindex int) hook {
	return hook{kind: kind, ifindex: ifindex, egress: kind != KindLAN && kind != KindFast}
}

func (h hook) pin() string { return h.kind + "-" + strconv.Itoa(h.ifindex) }

func (h hook) String() string {
	if h.egress {
		return fmt.Sprintf("egress of interface %d", h.ifindex)
	}
	return fmt.Sprintf("ingress of interface %d", h.ifindex)
}

// attachGuards attaches what stands behind the LAN programs.
func (g *Generation) attachGuards() error {
	if err := g.attachClient(); err != nil { // before a guard stops what is exempt
		return err
	}
	for _, u := range g.plan.Uplinks {
		program := programUplink
		if !u.Ethernet {
			program = programUplinkL3
		}
		if err := g.attach(newHook(KindUplink, u.Index), program); err != nil {
			return err
		}
	}
	if err := g.attachDNS(); err != nil {
		return err
	}
	return g.attachDelivery()
}

// AttachLANs attaches the LAN programs, detaches those of interfaces that are
// no LAN or uplink of the plan, and makes the pins show this generation.
func (g *Generation) AttachLANs() error {
	if err := g.attachEarly(); err != nil {
		return err
	}
	if err := g.attachFast(); err != nil {
		return err
	}
	for _, l := range g.plan.LANs {
		in, out := programLAN, programOut
		if !l.Ethernet {
			in, out = programLANL3, programOutL3
		}
		if err := g.attach(newHook(KindOut, l.Index), out); err != nil {
			return err
		}
		if err := g.attach(newHook(KindLAN, l.Index), in); err != nil {
			return err
		}
	}
	keep, err := g.kept()
	if err != nil {
		return err
	}
	if err := g.datapath.removeHooks(keep); err != nil {
		return err
	}
	if g.plan.Client == nil {
		if err := g.datapath.detachClient(); err != nil {
			return err
		}
	}
	if err := forgetLANs(g.collection.Maps[abi.DatapathMapLans], g.plan); err != nil {
		return err
	}
	return g.pin()
}

// kept are the hooks that the plan wants, and the guards of interfaces that are
// uplinks no more but have no other part in the plan: a default route may be gone
// for a moment only, and be back before anybody plans again.
func (g *Generation) kept() ([]hook, error) {
	keep := g.planned()
	links, _, err := g.datapath.pinnedLinks()
	if err != nil {
		return nil, err
	}
	filters, err := clsactHooks()
	if err != nil {
		return nil, err
	}
	for _, h := range append(links, filters...) {
		if h.kind == KindUplink && !g.inside(h.ifindex) {
			keep = append(keep, h)
		}
	}
	return keep, nil
}

// inside tells whether an interface is a LAN or leads to a local subnet.
func (g *Generation) inside(ifindex int) bool {
	return slices.ContainsFunc(g.plan.LANs, func(l plan.LAN) bool { return l.Index == ifindex }) ||
		slices.ContainsFunc(g.plan.Local, func(s plan.LocalSubnet) bool { return s.Index == ifindex })
}

// planned are the hooks that the plan wants.
func (g *Generation) planned() []hook {
	var hooks []hook
	for _, l := range g.plan.LANs {
		hooks = append(hooks, newHook(KindOut, l.Index), newHook(KindLAN, l.Index))
	}
	for _, u := range g.plan.Uplinks {
		hooks = append(hooks, newHook(KindUplink, u.Index))
		if g.fast(u) {
			hooks = append(hooks, newHook(KindFast, u.Index))
		}
	}
	return append(hooks, g.early...)
}

// attach puts the generation's program in place at a hook: by tcx, or by
// clsact where the kernel has no tcx or the caller asked for it. Whatever
// stands there keeps running until the new one does.
func (g *Generation) attach(h hook, name string) error {
	program := g.collection.Programs[name]
	if !g.datapath.clsact {
		err := g.datapath.attachTCX(h, program)
		if err == nil {
			return g.datapath.detachClsact(h)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("attach %s to %s: %w", name, h, err)
		}
	}
	if err := g.datapath.attachClsact(h, program); err != nil {
		return fmt.Errorf("attach %s to %s: %w", name, h, err)
	}
	return removeLink(g.datapath.linkPin(h.pin()))
}

// removeHooks detaches the programs from all hooks but those kept. It goes on
// after an error and returns all of them.
func (d *Datapath) removeHooks(keep []hook) error {
	links, stale, err := d.pinnedLinks()
	errs := []error{err}
	for _, name := range stale {
		errs = append(errs, removeLink(d.linkPin(name)))
	}
	for _, h := range links {
		if !slices.Contains(keep, h) {
			errs = append(errs, removeLink(d.linkPin(h.pin())))
		}
	}
	filters, err := clsactHooks()
	errs = append(errs, err)
	for _, h := range filters {
		if !slices.Contains(keep, h) {
			errs = append(errs, d.detachClsact(h))
		}
	}
	return errors.Join(errs...)
}

// pinnedLinks lists the hooks with a pinned link, and the names of pins that a
// killed process left before they could replace another. Those of local delivery
// (dns, delivery4 and delivery6) and of client mode are neither: they belong to no interface.
func (d *Datapath) pinnedLinks() (hooks []hook, stale []string, err error) {
	entries, err := os.ReadDir(d.linkPin(""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("list pinned links: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), newPrefix) {
			stale = append(stale, entry.Name())
			continue
		}
		kind, index, found := strings.Cut(entry.Name(), "-")
		if !found {
			continue
		}
		ifindex, err := strconv.Atoi(index)
		if err != nil {
			return nil, nil, fmt.Errorf("read name of pinned link %s: %w", entry.Name(), err)
		}
		hooks = append(hooks, newHook(kind, ifindex))
	}
	return hooks, stale, nil
}
