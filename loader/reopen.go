package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/plan"
)

// Reopen returns the generation that is pinned, which must be that of the plan,
// with its guards attached again where they were missing. No program is loaded, so
// a repair takes milliseconds where ApplyGuards takes the verifier's time.
//
// The caller must Close the generation when AttachLANs is done or will not be.
func (d *Datapath) Reopen(p *plan.Plan) (*Generation, error) {
	collection := &ebpf.Collection{Programs: make(map[string]*ebpf.Program), Maps: make(map[string]*ebpf.Map)}
	g := &Generation{datapath: d, plan: p, collection: collection}
	err := errors.Join(
		openPins(d.programPin(""), collection.Programs, ebpf.LoadPinnedProgram),
		openPins(d.mapPin(""), collection.Maps, ebpf.LoadPinnedMap))
	if err == nil {
		err = suffices(collection.Programs, p)
	}
	if err == nil {
		err = fillLANs(collection.Maps, p)
	}
	if err == nil {
		err = g.attachGuards()
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// suffices wants every program that a plan needs among those that are pinned: they were
// loaded for the interfaces of another one, none of which may have been a tunnel.
func suffices(programs map[string]*ebpf.Program, p *plan.Plan) error {
	for _, name := range []string{programLAN, programLANL3, programOut, programOutL3, programUplink, programUplinkL3, programEarly} {
		if needed(name, p) && programs[name] == nil {
			return fmt.Errorf("no pinned program %s: %w", name, os.ErrNotExist)
		}
	}
	// Those of the fast path the kernel may not have; but it has all of them or none.
	fast := []string{programFastIn, programFramesIn, programEarlyFast}
	missing := slices.DeleteFunc(slices.Clone(fast), func(name string) bool { return programs[name] != nil })
	if len(missing) > 0 && len(missing) < len(fast) {
		return fmt.Errorf("no pinned program %s: %w", missing[0], os.ErrNotExist)
	}
	return nil
}

// openPins opens all objects of a folder of pins by their names.
func openPins[T any](dir string, objects map[string]T, open func(string, *ebpf.LoadPinOptions) (T, error)) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		err = os.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("list pins in %s: %w", dir, err)
	}
	for _, entry := range entries {
		o, err := open(filepath.Join(dir, entry.Name()), nil)
		if err != nil {
			return fmt.Errorf("open pin %s: %w", entry.Name(), err)
		}
		objects[entry.Name()] = o
	}
	return nil
}
