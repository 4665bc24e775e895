package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// targetMaps are those of bpf/target.h: tor may ask for a connection that the generation
// before has led there.
var targetMaps = []string{abi.DatapathMapClientTargets, abi.DatapathMapTransTargets}

// detours are the maps of bpf/shortcut.h of what does not take the short way.
var detours = twins{abi.ClientMapDetour4Prefixes, abi.ClientMapDetour6Prefixes}

// shortcutOf is the short way of a plan, nil for none.
func shortcutOf(p *plan.Plan) *plan.Shortcut {
	if p.Client == nil {
		return nil
	}
	return p.Client.Shortcut
}

// sizeTargets has the ports of the short way take memory only where there is one.
func sizeTargets(spec *ebpf.CollectionSpec, p *plan.Plan) {
	if shortcutOf(p) == nil {
		spec.Maps[abi.DatapathMapTransTargets].MaxEntries = 1
	}
}

// prepareShortcut makes the object of client mode ready for the plan's short way: without
// one, no program of it is loaded.
func prepareShortcut(spec *ebpf.CollectionSpec, p *plan.Plan) error {
	s := shortcutOf(p)
	if s == nil {
		return withoutShortcut(spec)
	}
	grow := func(name string, entries int) {
		spec.Maps[name].MaxEntries = max(spec.Maps[name].MaxEntries, uint32(entries+trieSlack))
	}
	for _, name := range detours {
		grow(name, len(s.Detours))
	}
	grow(abi.ClientMapDetourPorts, len(s.Ports))
	return setShortcut(spec, true)
}

// noShortcut tells of a kernel that lacks something the short way takes.
const noShortcut = "no short way to Tor for what this machine connects (tor_target, client_peer4, client_peer6): it goes by nftables"

// withoutShortcut leaves out all of the short way.
func withoutShortcut(spec *ebpf.CollectionSpec) error {
	for _, c := range clientPrograms {
		if c.shortcut {
			delete(spec.Programs, c.full)
		}
	}
	return setShortcut(spec, false)
}

func setShortcut(spec *ebpf.CollectionSpec, on bool) error {
	if err := spec.Variables[abi.ClientVarShortcut].Set(setting(on)); err != nil {
		return fmt.Errorf("set variables: %w", err)
	}
	return nil
}

// removeShortcut detaches what the short way of a generation before was, where this one has
// none: nothing leads there any more.
func (g *Generation) removeShortcut(loaded *ebpf.Collection) error {
	var errs []error
	for _, c := range clientPrograms {
		if c.shortcut && loaded.Programs[c.full] == nil {
			errs = append(errs, removeLink(g.datapath.linkPin(c.pin)))
		}
	}
	return errors.Join(errs...)
}

// fillDetours writes what does not take the short way; nothing uses the maps yet.
func fillDetours(maps map[string]*ebpf.Map, p *plan.Plan) error {
	s := shortcutOf(p)
	if s == nil {
		return nil
	}
	for _, prefix := range s.Detours {
		if err := putPrefix(maps, detours, prefix, uint8(1)); err != nil {
			return err
		}
	}
	for _, port := range s.Ports {
		if err := maps[abi.ClientMapDetourPorts].Put(port, uint8(1)); err != nil {
			return fmt.Errorf("write port %d to map %s: %w", port, abi.ClientMapDetourPorts, err)
		}
	}
	return nil
}
