package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// deliveryPins are the links of the guard of bpf/delivery.bpf.c, by family.
var deliveryPins = map[string]link.NetfilterProtocolFamily{
	"delivery4": link.NetfilterProtoIPv4,
	"delivery6": link.NetfilterProtoIPv6,
}

// attachDelivery attaches the guard of what is delivered, where the kernel can
// have it. Where it cannot, why is in Unsupported: the other layers are there,
// and it takes a device that asks DNS by broadcast on purpose while two of them
// have failed, or a redirect of the user's own while ours is gone, to notice.
func (g *Generation) attachDelivery() error {
	collection, err := g.loadDelivery()
	if notSupported(err) {
		g.unsupported = append(g.unsupported, "no second guard of local delivery (delivery4, delivery6): it takes Linux 6.4 with CONFIG_NETFILTER_BPF_LINK and BTF")
		return nil
	}
	if err != nil {
		return err
	}
	defer collection.Close()
	program := collection.Programs[abi.DeliveryProgTorbpfDelivery]
	for pin, family := range deliveryPins {
		err := attachNetfilter(g.datapath.linkPin(pin), family, program)
		if notSupported(err) {
			g.unsupported = append(g.unsupported, fmt.Sprintf("no second guard of local delivery (%s)", pin))
			continue
		}
		if err != nil {
			return fmt.Errorf("attach %s: %w", abi.DeliveryProgTorbpfDelivery, err)
		}
	}
	return nil
}

func (g *Generation) loadDelivery() (*ebpf.Collection, error) {
	spec, err := abi.LoadDelivery()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	if err := setVariables(spec, g.plan); err != nil {
		return nil, err
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, g.share(spec))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", abi.DeliveryProgTorbpfDelivery, err)
	}
	return collection, nil
}

// commonMaps are those of bpf/shared.h, which every object has.
var commonMaps = []string{
	abi.DatapathMapLans, abi.DatapathMapLocalAddrs, abi.DatapathMapLocal4Prefixes, abi.DatapathMapLocal6Prefixes,
	abi.DatapathMapCounters, abi.DatapathMapRefusals, abi.DatapathMapAllowances, abi.DatapathMapCutFlows,
}

// share has another object use the generation's maps: those that all have, and others.
func (g *Generation) share(spec *ebpf.CollectionSpec, others ...string) ebpf.CollectionOptions {
	maps := make(map[string]*ebpf.Map)
	for _, name := range slices.Concat(commonMaps, others) {
		maps[name] = g.collection.Maps[name]
		spec.Maps[name].MaxEntries = maps[name].MaxEntries() // that of a plan with many addresses has grown
	}
	return ebpf.CollectionOptions{MapReplacements: maps}
}

// attachNetfilter puts the program beside the one that is there, then takes
// that away.
func attachNetfilter(pin string, family link.NetfilterProtocolFamily, program *ebpf.Program) error {
	if err := removeLink(newPin(pin)); err != nil { // a killed process left it in our place
		return err
	}
	old, err := openLink(pin)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
	}
	l, err := attachAtFreePriority(family, program)
	if err != nil {
		return err
	}
	defer l.Close()
	return exchangeLink(pin, l, old)
}

// attachAtFreePriority finds the place: no two programs share one. Whoever has
// unmounted our bpffs may have left links in the copies that other mount namespaces
// have of it; they guard on, as their generation did, until those end.
func attachAtFreePriority(family link.NetfilterProtocolFamily, program *ebpf.Program) (link.Link, error) {
	for priority := int32(plan.PriorityDelivery); ; priority++ {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: program, ProtocolFamily: family, Hook: link.NetfilterInetLocalIn, Priority: priority,
		})
		if !errors.Is(err, unix.EBUSY) || priority == plan.PriorityDeliveryLast {
			return l, err
		}
	}
}

// notSupported tells a kernel that lacks the program type, its kfunc or BTF
// from a failure. A kernel that does not know the type refuses the program as
// one that the verifier does not like; one that knows it, and likes the least
// program of that type, does not lack anything: ours is broken.
func notSupported(err error) bool {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return errors.Is(features.HaveProgramType(ebpf.Netfilter), ebpf.ErrNotSupported)
	}
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, btf.ErrNotFound)
}
