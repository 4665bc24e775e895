package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// The guard of what is forwarded, among what Missing and Unsupported name, and its pins.
const (
	GuardForward4 = "forward4"
	GuardForward6 = "forward6"
)

var forwardGuard = netfilterGuard{
	program: abi.GuardsProgTorbpfForward, hook: link.NetfilterInetForward,
	what: "guard of what is forwarded, for which ip rules stand in",
	pins: map[string]link.NetfilterProtocolFamily{GuardForward4: link.NetfilterProtoIPv4, GuardForward6: link.NetfilterProtoIPv6},
	of:   hasLANs,
}

// GuardForward attaches the guard of what is forwarded by itself. It knows the interfaces
// of the plan by their names, and those that a generation has known by their numbers. False
// says that this kernel cannot have it.
func (d *Datapath) GuardForward(p *plan.Plan) (bool, error) {
	if err := os.MkdirAll(d.linkPin(""), 0o700); err != nil {
		return false, fmt.Errorf("make pin directory: %w", err)
	}
	collection, err := loadForward(p, d.openShared)
	if err == nil {
		defer collection.Close()
	}
	for pin, family := range forwardGuard.pins {
		if err == nil {
			err = attachNetfilter(d.linkPin(pin), family, forwardGuard.hook, collection.Programs[forwardGuard.program])
		}
	}
	if err == nil || notSupported(err) {
		return err == nil, nil
	}
	return false, fmt.Errorf("attach %s: %w", forwardGuard.program, err)
}

// CanGuardForward tells whether this kernel can have the guard of what is forwarded.
func CanGuardForward() (bool, error) {
	collection, err := loadForward(&plan.Plan{}, func(*ebpf.CollectionSpec) (map[string]*ebpf.Map, error) { return nil, nil })
	if err == nil {
		collection.Close()
		return true, nil
	}
	if notSupported(err) {
		return false, nil
	}
	return false, err
}

// loadForward loads that guard alone, with maps that are there.
func loadForward(p *plan.Plan, open func(*ebpf.CollectionSpec) (map[string]*ebpf.Map, error)) (*ebpf.Collection, error) {
	if err := liftMemlock(); err != nil {
		return nil, err
	}
	spec, err := abi.LoadGuards()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	if err := setVariables(spec, p); err != nil {
		return nil, err
	}
	for name := range spec.Programs {
		if name != forwardGuard.program {
			delete(spec.Programs, name)
		}
	}
	shared, err := open(spec)
	if err != nil {
		return nil, err
	}
	defer closeMaps(shared)
	return loadKnowing(spec, ebpf.CollectionOptions{MapReplacements: shared}, p)
}

// loadKnowing loads the programs at netfilter's hooks, which know the interfaces of a plan.
func loadKnowing(spec *ebpf.CollectionSpec, options ebpf.CollectionOptions, p *plan.Plan) (*ebpf.Collection, error) {
	bits, names := lanNames(p)
	if err := errors.Join(
		spec.Variables[abi.GuardsVarExemptMarkCount].Set(uint32(len(p.ExemptMarks()))),
		spec.Variables[abi.GuardsVarLanNameBits].Set(bits)); err != nil {
		return nil, fmt.Errorf("set variables: %w", err)
	}
	for _, name := range names {
		spec.Maps[abi.GuardsMapLanNames].Contents = append(spec.Maps[abi.GuardsMapLanNames].Contents, ebpf.MapKV{Key: name, Value: uint8(1)})
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return nil, fmt.Errorf("load the programs at netfilter's hooks: %w", err)
	}
	return collection, nil
}

// lanNames returns the keys of lan_names, and the bit of each; see name_bit() in
// bpf/netfilter.h.
func lanNames(p *plan.Plan) (bits uint64, names [][unix.IFNAMSIZ]byte) {
	const golden = 0x9e3779b97f4a7c15
	for _, lan := range p.BlockedNames() {
		var name [unix.IFNAMSIZ]byte
		copy(name[:], lan)
		folded := binary.LittleEndian.Uint64(name[:8]) ^ binary.LittleEndian.Uint64(name[8:])
		bits |= 1 << (folded * golden >> 58)
		names = append(names, name)
	}
	return bits, names
}
