package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// hook is one place where a program is attached: a direction of an interface.
type hook struct {
	kind    string // "lan", "lan_out" or "uplink": the first part of the pin's name
	ifindex int
	egress  bool
	program string
}

func (h hook) pin() string { return h.kind + "-" + strconv.Itoa(h.ifindex) }

func (h hook) String() string {
	if h.egress {
		return fmt.Sprintf("egress of interface %d", h.ifindex)
	}
	return fmt.Sprintf("ingress of interface %d", h.ifindex)
}

// lanHooks are those of the LANs; guardHooks stand behind them at the uplinks.
func (g *Generation) lanHooks() []hook {
	var hooks []hook
	for _, l := range g.plan.LANs {
		in, out := programLAN, programOut
		if !l.Ethernet {
			in, out = programLANL3, programOutL3
		}
		hooks = append(hooks,
			hook{kind: "lan_out", ifindex: l.Index, egress: true, program: out},
			hook{kind: "lan", ifindex: l.Index, program: in})
	}
	return hooks
}

func (g *Generation) guardHooks() []hook {
	var hooks []hook
	for _, u := range g.plan.Uplinks {
		hooks = append(hooks, hook{kind: "uplink", ifindex: u.Index, egress: true, program: programUplink})
	}
	return hooks
}

// attachGuards attaches what stands behind the LAN programs.
func (g *Generation) attachGuards() error {
	for _, h := range g.guardHooks() {
		if err := g.attach(h); err != nil {
			return err
		}
	}
	return g.attachDNS()
}

// AttachLANs attaches the LAN programs, detaches those of interfaces that the
// plan has no more, and makes the pins show this generation.
func (g *Generation) AttachLANs() error {
	hooks := g.lanHooks()
	for _, h := range hooks {
		if err := g.attach(h); err != nil {
			return err
		}
	}
	if err := g.datapath.removeLANHooks(hooks); err != nil {
		return err
	}
	if err := g.datapath.removeGuards(g.guardHooks()); err != nil {
		return err
	}
	return g.pin()
}

// attach puts the generation's program in place at a hook: by tcx, or by
// clsact where the kernel has no tcx or the caller asked for it. Whatever
// stands there keeps running until the new one does.
func (g *Generation) attach(h hook) error {
	program := g.collection.Programs[h.program]
	if !g.datapath.clsact {
		err := g.datapath.attachTCX(h, program)
		if err == nil {
			return g.datapath.detachClsact(h)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("attach %s to %s: %w", h.program, h, err)
		}
	}
	if err := g.datapath.attachClsact(h, program); err != nil {
		return fmt.Errorf("attach %s to %s: %w", h.program, h, err)
	}
	return g.datapath.detachTCX(h)
}

// removeLANHooks detaches the LAN programs from all hooks but those kept.
func (d *Datapath) removeLANHooks(keep []hook) error {
	return d.removeHooks(keep, "lan", "lan_out")
}

// removeGuards detaches the guards from all hooks but those kept; without any
// to keep the DNS guard goes, too.
func (d *Datapath) removeGuards(keep []hook) error {
	err := d.removeHooks(keep, "uplink")
	if keep == nil {
		err = errors.Join(err, d.detachDNS())
	}
	return err
}

func (d *Datapath) removeHooks(keep []hook, kinds ...string) error {
	present, err := d.hooks()
	errs := []error{err}
	for _, h := range present {
		if !slices.Contains(kinds, h.kind) || kept(keep, h) {
			continue
		}
		errs = append(errs, d.detachTCX(h), d.detachClsact(h))
	}
	return errors.Join(errs...)
}

func kept(keep []hook, h hook) bool {
	for _, k := range keep {
		if k.kind == h.kind && k.ifindex == h.ifindex {
			return true
		}
	}
	return false
}

// hooks finds where our programs are attached: by the pins of tcx links and by
// the names of clsact filters.
func (d *Datapath) hooks() ([]hook, error) {
	var hooks []hook
	entries, err := os.ReadDir(d.linkPin(""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	for _, entry := range entries {
		kind, index, found := strings.Cut(entry.Name(), "-")
		ifindex, err := strconv.Atoi(index)
		if !found || err != nil {
			continue // the DNS guard's, which belongs to no interface
		}
		hooks = append(hooks, hook{kind: kind, ifindex: ifindex, egress: kind != "lan"})
	}
	filters, err := clsactHooks()
	return append(hooks, filters...), err
}
