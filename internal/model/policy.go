// Package model is the classifier of bpf/ told once more, in plain Go: bytes
// to Packet by Parse, Packet to verdict and reason by a Policy.
//
// It serves two ends. Tests run it beside the BPF program on the same packets,
// so that each is checked by the other: it is written from the design and from
// bpf/abi.h, and searches lists where the program looks maps up. And attach
// asks it which of the connections that already exist may stay.
package model

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// PrefixPolicy says what becomes of the addresses under a prefix.
type PrefixPolicy struct {
	Prefix netip.Prefix
	Policy abi.Policy
	Ended  bool        // its time is over: with nothing beneath it is as good as not there
	Then   *abi.Policy // what was beneath it, which counts then; nil: nothing
}

// policyNow is what a rule says; found is false when it has ended, and nothing is beneath it.
func policyNow(policy abi.Policy, ended bool, then *abi.Policy) (now abi.Policy, found bool) {
	switch {
	case !ended:
		return policy, true
	case then != nil:
		return *then, true
	}
	return abi.PolicyTor, false
}

// ServicePolicy says what becomes of what goes to a port, or is of a protocol, of the
// destinations under a prefix. ICMP has a number for each family.
type ServicePolicy struct {
	Service config.Service
	PrefixPolicy
}

// Answer is an address that a device was told.
type Answer struct {
	Device config.MAC
	Addr   netip.Addr
}

// DevicePolicy says what becomes of what a device sends.
type DevicePolicy struct {
	Policy abi.Policy
	Ended  bool
	Then   *abi.Policy
}

// InboundFlow is a flow from outside to a LAN host. Protocols without ports
// have port 0, ICMP echo its identifier in both.
type InboundFlow struct {
	Protocol  uint8
	LAN, Peer netip.AddrPort
}

// Lists are the lists of destinations that go direct: too long to be held here as well.
// Attach asks the maps that the programs ask.
type Lists interface {
	// Has says whether a list that has not ended has an address.
	Has(netip.Addr) bool
}

// NameFlow is a flow from the side of the device that has begun it.
type NameFlow struct {
	Device config.MAC
	InboundFlow
}

// Policy is what the maps of the BPF program hold. The zero Policy knows no
// exclusion and no address of the router, and its gate is closed.
type Policy struct {
	Destinations []PrefixPolicy
	Sources      []PrefixPolicy
	Services     []ServicePolicy
	Devices      map[config.MAC]DevicePolicy
	Lists        Lists              // nil: none
	Local        []plan.LocalSubnet // Index 0: reserved space
	LANs         []int              // indices of the torified interfaces
	LocalMode    abi.LocalMode
	Addrs        []netip.Addr  // the router's own; those of Broadcasts may be among them
	Broadcasts   []netip.Addr  // of the subnets it is in
	Exempt       []config.Mark // masks without our bits
	OurMark      plan.Mark
	LateMarks    bool // refused packets go on to the user's prerouting rules
	Inbound      bool // replies to flows begun outside may pass
	TimeServer   bool // the router answers NTP
	Onion4       netip.Prefix
	Onion6       netip.Prefix
	Flows        map[InboundFlow]bool
	Neighbours   map[netip.Addr]config.MAC // whose address is whose, for flows
	Domains      []string                  // excluded names
	Answers      map[Answer]string         // what devices were told of them
	NameFlows    map[NameFlow]string       // what has begun by one
	GateOpen     bool
	Instances    int            // of tor; 0: one
	Shut         []int          // those of them that are not ready while GateOpen
	Client       abi.ClientMode // what becomes of what the router itself sends
}

// FromPlan returns the policy that attach writes into the maps. Its gate is
// closed: only the sentry knows whether Tor is there.
func FromPlan(p *plan.Plan) *Policy {
	out := &Policy{
		LocalMode:  abi.LocalModeOf(p.LocalMode),
		Addrs:      p.LocalAddrs,
		Broadcasts: p.Broadcasts,
		Exempt:     p.ExemptMarks(),
		OurMark:    p.Mark,
		LateMarks:  len(p.ExemptMarks()) > 0,
		Inbound:    p.Inbound,
		TimeServer: p.TimeServer,
		Onion4:     p.Onion4,
		Onion6:     p.Onion6,
		Instances:  p.Instances,
	}
	for _, r := range p.Rules {
		out.add(r)
	}
	out.Local = localSubnets(p)
	for _, l := range p.LANs {
		out.LANs = append(out.LANs, l.Index)
	}
	return out
}

// add takes in a rule of a plan.
func (p *Policy) add(r config.Rule) {
	policy := PrefixPolicy{Prefix: r.Prefix, Policy: abi.PolicyOf(r.Policy)}
	if r.Beneath != nil {
		then := abi.PolicyOf(r.Beneath.Policy)
		policy.Then = &then
	}
	switch r.Kind {
	case config.KindDestination:
		p.Destinations = append(p.Destinations, policy)
	case config.KindSource:
		p.Sources = append(p.Sources, policy)
	case config.KindDevice:
		if p.Devices == nil {
			p.Devices = make(map[config.MAC]DevicePolicy)
		}
		p.Devices[r.MAC] = DevicePolicy{Policy: policy.Policy, Then: policy.Then}
	case config.KindPort:
		p.addService(r.Service, policy)
	case config.KindDomain:
		p.Domains = append(p.Domains, r.Domain)
	}
}

// byName says whether an excluded name lets a packet out: one that its flow began by,
// or one that its sender was told the address for.
func (p *Policy) byName(k Packet) bool {
	flow := InboundFlow{Protocol: k.Protocol, LAN: netip.AddrPortFrom(k.Src, k.SrcPort), Peer: netip.AddrPortFrom(k.Dst, k.DstPort)}
	for _, name := range []string{p.NameFlows[NameFlow{k.MAC, flow}], p.Answers[Answer{k.MAC, k.Dst}]} {
		if name != "" && slices.Contains(p.Domains, name) {
			return k.Fragment == Whole
		}
	}
	return false
}

func (p *Policy) addService(s config.Service, policy PrefixPolicy) {
	prefixes := []netip.Prefix{policy.Prefix}
	if !policy.Prefix.IsValid() {
		prefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	for _, prefix := range prefixes {
		of := s
		if prefix.Addr().Is6() && s.Protocol == config.ProtocolICMP {
			of.Protocol = protoICMPv6
		}
		policy.Prefix = prefix
		p.Services = append(p.Services, ServicePolicy{of, policy})
	}
}

// localSubnets orders what is local, the least important first: a subnet wins
// over reserved space that is the same prefix, and a LAN over another interface
// that leads to the same subnet, since it may be the source's. Link-local space
// is a LAN's for its sources only; as a destination it is judged before.
func localSubnets(p *plan.Plan) []plan.LocalSubnet {
	var reserved, others, behindLANs []plan.LocalSubnet
	for _, prefix := range plan.Reserved() {
		reserved = append(reserved, plan.LocalSubnet{Prefix: prefix})
	}
	for _, s := range slices.Backward(p.Local) {
		if slices.ContainsFunc(p.LANs, func(l plan.LAN) bool { return l.Index == s.Index }) {
			behindLANs = append(behindLANs, s)
		} else {
			others = append(others, s)
		}
	}
	for _, l := range p.LANs {
		for _, prefix := range l.Prefixes {
			if prefix.Addr().IsLinkLocalUnicast() {
				behindLANs = append(behindLANs, plan.LocalSubnet{Prefix: prefix, Index: l.Index, Name: l.Name})
			}
		}
	}
	return slices.Concat(reserved, others, behindLANs)
}

// findPolicy returns the policy of the longest prefix that covers the address, and whether
// there is one. Of the same prefix there is one entry in a map, the last. Behind more ended
// ones than the programs look behind all is beyond.
func findPolicy(list []PrefixPolicy, a netip.Addr, beyond abi.Policy) (policy abi.Policy, found bool) {
	byLength := make(map[int]PrefixPolicy)
	for _, e := range list {
		if e.Prefix.Contains(a) {
			byLength[e.Prefix.Bits()] = e
		}
	}
	lengths := slices.Sorted(maps.Keys(byLength))
	for i, bits := range slices.Backward(lengths) {
		if len(lengths)-i > abi.MaxNested {
			return beyond, true
		}
		e := byLength[bits]
		if now, found := policyNow(e.Policy, e.Ended, e.Then); found {
			return now, true
		}
	}
	return abi.PolicyTor, false
}

// service finds what is said of the destination's port, or the protocol. A fragment
// does not show its port, or the others do not; where some port is Tor's this may be it.
func (p *Policy) service(k Packet) (policy abi.Policy, found bool) {
	if k.hidesPort() && p.torPorts() {
		return abi.PolicyTor, true
	}
	of := config.Service{Protocol: k.Protocol, Port: k.DstPort}
	if !of.HasPorts() {
		of.Port = 0
	} else if k.Fragment != Whole {
		return abi.PolicyTor, false
	}
	var list []PrefixPolicy
	for _, s := range p.Services {
		if s.Service == of {
			list = append(list, s.PrefixPolicy)
		}
	}
	return findPolicy(list, k.Dst, abi.PolicyTor)
}

// torPorts says whether some port is Tor's, whatever its destination, or may come to be.
func (p *Policy) torPorts() bool {
	return slices.ContainsFunc(p.Services, func(s ServicePolicy) bool {
		return s.Service.HasPorts() && (s.Policy == abi.PolicyTor || s.Then != nil)
	})
}

// localSubnet returns the longest local or reserved prefix that covers the
// address; of equal ones the last.
func (p *Policy) localSubnet(a netip.Addr) (plan.LocalSubnet, bool) {
	var found plan.LocalSubnet
	for _, l := range p.Local {
		if l.Prefix.Contains(a) && (!found.Prefix.IsValid() || l.Prefix.Bits() >= found.Prefix.Bits()) {
			found = l
		}
	}
	return found, found.Prefix.IsValid()
}

// onion says whether an address is one that tor handed out for a .onion name.
func (p *Policy) onion(a netip.Addr) bool { return p.Onion4.Contains(a) || p.Onion6.Contains(a) }

// exempt says whether a mark, whatever its class, is one of the exempt ones.
func (p *Policy) exempt(mark uint32) bool {
	mark &^= p.OurMark.Mask()
	for _, e := range p.Exempt {
		if mark&e.Mask == e.Value {
			return true
		}
	}
	return false
}
