package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// The programs of bpf/torbpf.bpf.c.
const (
	programLAN    = "torbpf_lan"
	programLANL3  = "torbpf_lan_l3"
	programOut    = "torbpf_lan_out"
	programOutL3  = "torbpf_lan_out3"
	programUplink = "torbpf_uplink"
	programDNS    = "torbpf_dns"
	programDNSSrc = "torbpf_dns_src"
)

// Generation is one loaded set of programs and maps. It holds file
// descriptors; what is pinned and attached stays when they are closed.
type Generation struct {
	datapath   *Datapath
	plan       *plan.Plan
	collection *ebpf.Collection
}

// load loads the programs with maps filled for the plan; nothing is attached.
func (d *Datapath) load(p *plan.Plan) (*Generation, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift limit on locked memory: %w", err)
	}
	spec, err := abi.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read BPF objects: %w", err)
	}
	if err := spec.Variables["mark_shift"].Set(uint32(p.Mark.Shift)); err != nil {
		return nil, fmt.Errorf("set mark shift: %w", err)
	}
	sizeMaps(spec, p)

	shared, err := d.openShared(spec)
	if err != nil {
		return nil, err
	}
	defer closeMaps(shared)

	collection, err := loadCollection(spec, shared)
	if err != nil {
		return nil, err
	}
	g := &Generation{datapath: d, plan: p, collection: collection}
	if err := g.fill(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// loadCollection tries the DNS guard that asks for the interface first; a
// kernel before 5.17 refuses it, and gets the one that asks for the source.
func loadCollection(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) (*ebpf.Collection, error) {
	older := spec.Programs[programDNSSrc]
	delete(spec.Programs, programDNSSrc)
	opts := ebpf.CollectionOptions{MapReplacements: shared}
	collection, err := ebpf.NewCollectionWithOptions(spec, opts)
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) && !lookupTellsInterface() {
		delete(spec.Programs, programDNS)
		spec.Programs[programDNSSrc] = older
		collection, err = ebpf.NewCollectionWithOptions(spec, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", explainLoad(err))
	}
	return collection, nil
}

// lookupTellsInterface is asked only after a load was refused: since Linux
// 5.17 (commit f89315650ba3) an sk_lookup program knows the interface.
func lookupTellsInterface() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= 5<<16|17<<8
}

func explainLoad(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w): run torbpf as root, with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN", err, ErrKernel)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w (%w): torbpf needs Linux 5.10 or newer with CONFIG_BPF_SYSCALL", err, ErrKernel)
	}
	return err
}

// openShared opens the pinned maps that outlive a generation, as far as this
// version of torbpf can go on using them. One that changed its shape is begun
// anew; its pin is replaced when the new generation is pinned.
func (d *Datapath) openShared(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	shared := make(map[string]*ebpf.Map)
	for _, name := range sharedMaps {
		m, err := d.openMap(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			closeMaps(shared)
			return nil, err
		}
		if spec.Maps[name].Compatible(m) != nil {
			m.Close()
			continue
		}
		shared[name] = m
	}
	return shared, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

func (g *Generation) fill() error {
	if err := fillMaps(g.collection.Maps, g.plan); err != nil {
		return err
	}
	return fillLANs(g.collection.Maps["lans"], g.plan)
}

// Gates returns the map through which the sentry opens and closes Tor to new
// connections; it stays valid until Close.
func (g *Generation) Gates() *ebpf.Map { return g.collection.Maps["gates"] }

// Close releases the file descriptors.
func (g *Generation) Close() error {
	g.collection.Close()
	return nil
}

// pin makes the pins show this generation. Each replaces its predecessor by a
// rename, so a reader finds either. Pins only serve inspection and the next
// command; what runs is held by the links.
func (g *Generation) pin() error {
	for name, m := range g.collection.Maps {
		if !slices.Contains(pinnedMaps(), name) {
			continue
		}
		if err := replacePin(g.datapath.mapPin(name), g.datapath.mapPin("new-"+name), m.Pin); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name, p := range g.collection.Programs {
		if err := replacePin(g.datapath.programPin(name), g.datapath.programPin("new-"+name), p.Pin); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return nil
}

// pinnedMaps are all but the sections of constants.
func pinnedMaps() []string {
	return append([]string{
		"settings", "dst4_prefixes", "dst6_prefixes", "src4_prefixes", "src6_prefixes",
		"local4_prefixes", "local6_prefixes", "local_addrs", "exempt_marks",
	}, sharedMaps...)
}

func replacePin(path, temporary string, pin func(string) error) error {
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale pin: %w", err)
	}
	if err := pin(temporary); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
