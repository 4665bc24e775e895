package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/kernel"
	"github.com/torbpf/torbpf/internal/plan"
)

// The programs of bpf/torbpf.bpf.c.
const (
	programLAN      = abi.DatapathProgTorbpfLan
	programLANL3    = abi.DatapathProgTorbpfLanL3
	programOut      = abi.DatapathProgTorbpfLanOut
	programOutL3    = abi.DatapathProgTorbpfLanOut3
	programUplink   = abi.DatapathProgTorbpfUplink
	programUplinkL3 = abi.DatapathProgTorbpfUplink3
	programDNS      = abi.DatapathProgTorbpfDns
	programDNSSrc   = abi.DatapathProgTorbpfDnsSrc
)

// Generation is one loaded set of programs and maps. It holds file
// descriptors; what is pinned and attached stays when they are closed.
type Generation struct {
	datapath   *Datapath
	plan       *plan.Plan
	collection *ebpf.Collection

	unsupported []string
	lostCut     bool           // see LostCut
	early       []hook         // where XDP programs are
	noEarly     map[int]string // see NoEarly
	lostSockets bool           // see LostSockets
	noFast      string         // see NoFast
	secret      uint64         // of what its programs hand to one another
}

// load loads the programs with maps filled for the plan; nothing is attached.
func (d *Datapath) load(p *plan.Plan) (*Generation, error) {
	if err := liftMemlock(); err != nil {
		return nil, err
	}
	spec, err := abi.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read BPF objects: %w", err)
	}
	if err := setVariables(spec, p); err != nil {
		return nil, err
	}
	number := secret()
	if err := setGeneration(spec, number); err != nil {
		return nil, err
	}
	sizeMaps(spec, p)
	if err := shapeListeners(spec, p); err != nil {
		return nil, err
	}

	shared, err := d.openShared(spec)
	if err != nil {
		return nil, err
	}
	defer closeMaps(shared)
	if err := d.replaceLists(spec, shared); err != nil {
		return nil, err
	}
	if len(p.Rules.Of(config.KindDomain)) > 0 {
		if err := d.forgetNames(shared); err != nil {
			return nil, err
		}
	}

	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !needed(name, p) })
	collection, err := loadCollection(spec, shared)
	if err != nil {
		return nil, err
	}
	g := &Generation{datapath: d, plan: p, collection: collection, secret: number, lostCut: shared[abi.DatapathMapCutFlows] == nil, lostSockets: shared[abi.DatapathMapClientSockets] == nil}
	err = errors.Join(g.loadFast(), d.rememberLANs(g.collection.Maps, p))
	if err == nil {
		err = fillMaps(g.collection.Maps, p)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// liftMemlock is for kernels before 5.11, which count BPF memory as locked.
func liftMemlock() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift limit on locked memory: %w", kernel.Explain(err, "a limit on locked memory that can be lifted"))
	}
	return nil
}

// needed tells whether a plan has use for a program: the verifier takes a tenth of a second
// for each of the larger ones. Those for Ethernet are always there, to be asked about the
// maps in force; see mapsInForce.
func needed(program string, p *plan.Plan) bool {
	switch program {
	case programLANL3, programOutL3:
		return slices.ContainsFunc(p.LANs, func(l plan.LAN) bool { return !l.Ethernet })
	case programUplinkL3:
		return slices.ContainsFunc(p.Uplinks, func(u plan.Uplink) bool { return !u.Ethernet })
	case programEarly:
		return slices.ContainsFunc(p.LANs, func(l plan.LAN) bool { return wantsEarly(l, plan.EarlyNative) || wantsEarly(l, plan.EarlyGeneric) })
	default:
		return true
	}
}

// secret is a number that no packet can bring along; see bpf/early.h.
func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return max(binary.NativeEndian.Uint64(b[:]), 1)
}

// The configuration has as many tors as the mark can tell apart.
var _ [abi.MaxInstances]struct{} = [config.MaxInstances]struct{}{}

func setGeneration(spec *ebpf.CollectionSpec, number uint64) error {
	if err := spec.Variables[abi.DatapathVarGeneration].Set(number); err != nil {
		return fmt.Errorf("set variable %s: %w", abi.DatapathVarGeneration, err)
	}
	return nil
}

// setVariables gives the programs of any object the mark and the ports of a
// plan; all call them the same.
func setVariables(spec *ebpf.CollectionSpec, p *plan.Plan) error {
	var trans, dns [abi.MaxInstances]uint16
	tors := p.Tors()
	for i, t := range tors {
		trans[i], dns[i] = t.Trans, t.DNS
	}
	for name, value := range map[string]any{
		abi.DatapathVarMarkShift:    uint32(p.Mark.Shift),
		abi.DatapathVarInstances:    uint32(len(tors)),
		abi.DatapathVarTransPorts:   trans,
		abi.DatapathVarDnsPorts:     dns,
		abi.DatapathVarResolverPort: p.Ports.Resolver,
		abi.DatapathVarTproxy:       setting(p.TProxy),
		abi.DatapathVarFastPath:     setting(p.Fast),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set variable %s: %w", name, err)
		}
	}
	return nil
}

// loadCollection tries the DNS guard that asks for the interface first; a
// kernel before 5.17 (commit f89315650ba3) refuses it, and gets the one that
// asks for the source. If that is refused as well, the guard was not the cause.
func loadCollection(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{MapReplacements: shared}
	collection, err := ebpf.NewCollectionWithOptions(without(spec, programDNSSrc), opts)
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		collection, err = ebpf.NewCollectionWithOptions(without(spec, programDNS), opts)
	}
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", explainLoad(err))
	}
	return collection, nil
}

// without copies a spec, but for one of its programs.
func without(spec *ebpf.CollectionSpec, program string) *ebpf.CollectionSpec {
	spec = spec.Copy()
	delete(spec.Programs, program)
	return spec
}

// explainLoad adds the next step. The verifier's refusal is an EACCES as well
// and none of the caller's making, so only EPERM is about privilege.
func explainLoad(err error) error {
	const needs = "Linux 5.10 or newer with CONFIG_BPF_SYSCALL"
	if errors.Is(err, ebpf.ErrNotSupported) {
		return kernel.Lacks(err, needs)
	}
	return kernel.Explain(err, needs, unix.ENOSYS)
}

// openShared opens the pinned maps that outlive a generation, as far as this
// version of torbpf can go on using them. One that changed its shape is begun
// anew; its pin is replaced when the new generation is pinned.
func (d *Datapath) openShared(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	shared := make(map[string]*ebpf.Map)
	for _, name := range sharedMaps {
		if spec.Maps[name] == nil {
			continue // of another object
		}
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

// Unsupported says what this kernel lacks and torbpf goes without.
func (g *Generation) Unsupported() []string { return g.unsupported }

// Close releases the file descriptors.
func (g *Generation) Close() error {
	g.collection.Close()
	return nil
}
