// Package loader owns everything of torbpf that lives in the kernel's BPF
// subsystem: it loads the programs, fills their maps, attaches them, pins all
// of it below a bpffs of torbpf's own, replaces a running generation without
// an open instant and takes everything away again.
//
// Pins of one network namespace (bpffs allows no dots in names):
//
//	host/
//	├── maps/       settings, dst4_prefixes, …, lans, counters
//	├── programs/   torbpf_lan, torbpf_uplink, …
//	├── links/      lan-3, lan_out-3, uplink-2 (number: ifindex), dns, forward4, delivery4, client_sock
//	└── qdiscs/     3 (clsact qdiscs that we added)
//
// A generation is a set of programs with policy maps of their own. Applying a
// policy, changed or not, loads a new generation and exchanges the programs
// under the links, so each packet is judged wholly by the old policy or wholly
// by the new one. What outlives generations (lans, gates and what the programs
// count and learn) is carried over.
package loader

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// Datapath is the BPF side of torbpf in one network namespace.
type Datapath struct {
	dir    string // of its pins
	mount  string // see Options.Mount
	clsact bool   // attach by clsact even where tcx is there
	lists  *Lists // see UseLists
}

// Options say where a Datapath lives.
type Options struct {
	Root      string // a mounted bpffs, see Mount
	Mount     string // its path in the mount namespace of the first process; "": Root
	Namespace string // name of the network namespace: "host", "ns-4026532211"
	Clsact    bool   // attach by clsact even where tcx is there
}

// Open names a Datapath; nothing is touched before ApplyGuards.
func Open(o Options) *Datapath {
	return &Datapath{dir: filepath.Join(o.Root, o.Namespace), mount: cmp.Or(o.Mount, o.Root), clsact: o.Clsact}
}

// Dir returns where the pins are.
func (d *Datapath) Dir() string { return d.dir }

// CanLoad tells why the kernel does not take the programs for a plan; nothing is attached or
// pinned.
func CanLoad(p *plan.Plan) error {
	if err := kernel.SerialPackets(); err != nil {
		return err
	}
	g, err := Open(Options{Root: "/nowhere"}).load(p) // there are no pins to go on with
	if err != nil {
		return err
	}
	return g.Close()
}

// ApplyGuards loads a new generation for the plan and attaches what stands
// behind the LAN programs: the uplink guards, the DNS guard, those at netfilter's hooks and, in
// client mode, what tells whose the packets of this machine's own are. From then on
// nothing of a LAN of the plan leaves by an uplink unless the generation's LAN
// program marked it so.
//
// The caller must Close the generation when AttachLANs is done or will not be.
func (d *Datapath) ApplyGuards(p *plan.Plan) (*Generation, error) {
	if err := kernel.SerialPackets(); err != nil {
		return nil, err
	}
	for _, sub := range []string{"maps", "programs", "links"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make pin directory: %w", err)
		}
	}
	g, err := d.load(p)
	if err != nil {
		return nil, err
	}
	if err := g.attachGuards(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Present tells whether anything of a Datapath is pinned or attached; what
// cannot be told counts as there.
func (d *Datapath) Present() bool {
	for _, dir := range []string{d.linkPin(""), d.mapPin(""), d.programPin("")} {
		entries, err := os.ReadDir(dir)
		if len(entries) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	filters, err := clsactHooks()
	return len(filters) > 0 || err != nil
}

// Remove detaches all programs and removes all pins. It goes on after an error
// and returns all of them: what could not be removed still blocks.
func (d *Datapath) Remove() error {
	err := errors.Join(d.Withdraw(), errors.Join(forwardGuard.detach(d)...))
	if e := os.RemoveAll(d.dir); e != nil {
		err = errors.Join(err, fmt.Errorf("remove pins: %w", e))
	}
	return err
}

// Withdraw is Remove, but leaves the guard of what is forwarded, which needs nothing of the
// rest: with nftables it is what keeps a LAN blocked.
func (d *Datapath) Withdraw() error {
	errs := []error{d.removeHooks(nil), removeLink(d.linkPin(GuardDNS))}
	for _, n := range netfilterGuards {
		if n.program != forwardGuard.program {
			errs = append(errs, n.detach(d)...)
		}
	}
	errs = append(errs, d.detachClient())
	for _, pins := range []string{d.mapPin(""), d.programPin("")} {
		if err := os.RemoveAll(pins); err != nil {
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// openMap opens a pinned map.
func (d *Datapath) openMap(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(d.mapPin(name), nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", name, err)
	}
	return m, nil
}

func (d *Datapath) mapPin(name string) string { return filepath.Join(d.dir, "maps", name) }

func (d *Datapath) programPin(name string) string { return filepath.Join(d.dir, "programs", name) }

func (d *Datapath) linkPin(name string) string { return filepath.Join(d.dir, "links", name) }
