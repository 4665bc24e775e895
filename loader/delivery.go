package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// netfilterGuard is a program of bpf/guards.bpf.c, which is attached for each family.
type netfilterGuard struct {
	program string
	hook    link.NetfilterInetHook
	pins    map[string]link.NetfilterProtocolFamily // names of its links
	what    string                                  // in words, where the kernel cannot have it
	of      func(*plan.Plan) bool                   // whether a plan has it
}

var netfilterGuards = []netfilterGuard{
	{
		program: abi.GuardsProgTorbpfDelivery, hook: link.NetfilterInetLocalIn, what: "second guard of local delivery",
		pins: map[string]link.NetfilterProtocolFamily{"delivery4": link.NetfilterProtoIPv4, "delivery6": link.NetfilterProtoIPv6},
		of:   hasLANs,
	},
	{
		program: abi.GuardsProgTorbpfDeparture, hook: link.NetfilterInetPostRouting, what: "third guard of what this machine sends",
		pins: map[string]link.NetfilterProtocolFamily{"departure4": link.NetfilterProtoIPv4, "departure6": link.NetfilterProtoIPv6},
		of:   func(p *plan.Plan) bool { return p.Client != nil && p.Client.All },
	},
	{
		program: abi.GuardsProgTorbpfReports, hook: link.NetfilterInetPostRouting, what: "third guard of what sites are told of devices",
		pins: map[string]link.NetfilterProtocolFamily{"reports4": link.NetfilterProtoIPv4, "reports6": link.NetfilterProtoIPv6},
		of:   func(p *plan.Plan) bool { return p.TProxy },
	},
	forwardGuard,
}

// hasLANs tells whether a plan has LANs, or waits for some: without any these guards would only be asked about
// this machine's own.
func hasLANs(p *plan.Plan) bool { return len(p.LANs)+len(p.Waiting)+len(p.Patterns) > 0 }

// attachDelivery attaches the guards at netfilter's hooks, of which a plan has those that it
// needs, where the kernel can have them. Where it cannot, why is in Unsupported: ip rules stand
// in for that of what is forwarded, and of the others it takes a device that asks DNS by
// broadcast on purpose while two other layers have failed, a redirect of the user's own while
// ours is gone, or the loss of both other guards of what this machine sends to notice.
func (g *Generation) attachDelivery() error {
	collection, err := g.loadDelivery()
	if err != nil && !notSupported(err) {
		return err
	}
	if err == nil {
		defer collection.Close()
	}
	for _, n := range netfilterGuards {
		switch {
		case !n.of(g.plan):
			err = errors.Join(n.detach(g.datapath)...)
		case collection == nil:
			g.unsupported = append(g.unsupported, fmt.Sprintf("no %s (%s): it takes Linux 6.4 with CONFIG_NETFILTER_BPF_LINK and BTF", n.what, strings.Join(slices.Sorted(maps.Keys(n.pins)), ", ")))
			err = nil
		default:
			err = g.attachGuard(n, collection.Programs[n.program])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *Generation) attachGuard(n netfilterGuard, program *ebpf.Program) error {
	for pin, family := range n.pins {
		err := attachNetfilter(g.datapath.linkPin(pin), family, n.hook, program)
		if notSupported(err) {
			g.unsupported = append(g.unsupported, fmt.Sprintf("no %s (%s)", n.what, pin))
			continue
		}
		if err != nil {
			return fmt.Errorf("attach %s: %w", n.program, err)
		}
	}
	return nil
}

func (n netfilterGuard) detach(d *Datapath) []error {
	var errs []error
	for pin := range n.pins {
		errs = append(errs, removeLink(d.linkPin(pin)))
	}
	return errs
}

func (g *Generation) loadDelivery() (*ebpf.Collection, error) {
	spec, err := abi.LoadGuards()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	if err := setVariables(spec, g.plan); err != nil {
		return nil, err
	}
	if err := spec.Variables[abi.GuardsVarOwnMarkCount].Set(ownMarks(g.plan)); err != nil {
		return nil, fmt.Errorf("set variables: %w", err)
	}
	shared := g.share(spec, abi.DatapathMapLink6Prefixes, abi.DatapathMapExits, abi.DatapathMapExemptMarks)
	return loadKnowing(spec, shared, g.plan)
}

// commonMaps are those of bpf/shared.h, which every object has.
var commonMaps = []string{
	abi.DatapathMapLans, abi.DatapathMapLocalAddrs, abi.DatapathMapLocal4Prefixes, abi.DatapathMapLocal6Prefixes,
	abi.DatapathMapCounters, abi.DatapathMapRefusals, abi.DatapathMapAllowances, abi.DatapathMapCutFlows, abi.DatapathMapOwnMarks,
}

// share has another object use the generation's maps: those that all have, and others.
func (g *Generation) share(spec *ebpf.CollectionSpec, others ...string) ebpf.CollectionOptions {
	common := make(map[string]*ebpf.Map)
	for _, name := range slices.Concat(commonMaps, others) {
		common[name] = g.collection.Maps[name]
		spec.Maps[name].MaxEntries = common[name].MaxEntries() // that of a plan with many addresses has grown
	}
	return ebpf.CollectionOptions{MapReplacements: common}
}

// attachNetfilter puts the program beside the one that is there, then takes
// that away.
func attachNetfilter(pin string, family link.NetfilterProtocolFamily, hook link.NetfilterInetHook, program *ebpf.Program) error {
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
	l, err := attachAtFreePriority(family, hook, program)
	if err != nil {
		return err
	}
	defer l.Close()
	return exchangeLink(pin, l, old)
}

// attachAtFreePriority finds the place: no two programs share one. Whoever has
// unmounted our bpffs may have left links in the copies that other mount namespaces
// have of it; they guard on, as their generation did, until those end.
func attachAtFreePriority(family link.NetfilterProtocolFamily, hook link.NetfilterInetHook, program *ebpf.Program) (link.Link, error) {
	for priority := int32(plan.PriorityDelivery); ; priority++ {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: program, ProtocolFamily: family, Hook: hook, Priority: priority,
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
