// Package model is the classifier of bpf/ told once more, in plain Go: bytes
// to Packet by Parse, Packet to verdict and reason by a Policy.
//
// It serves two ends. Tests run it beside the BPF program on the same packets,
// so that each is checked by the other: it is written from the design and from
// bpf/abi.h, and searches lists where the program looks maps up. And attach
// asks it which of the connections that already exist may stay.
package model

import (
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
}

// InboundFlow is a flow from outside to a LAN host. Protocols without ports
// have port 0, ICMP echo its identifier in both.
type InboundFlow struct {
	Protocol  uint8
	LAN, Peer netip.AddrPort
}

// Policy is what the maps of the BPF program hold. The zero Policy knows no
// exclusion and no address of the router, and its gate is closed.
type Policy struct {
	Destinations []PrefixPolicy
	Sources      []PrefixPolicy
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
	GateOpen     bool
}

// FromPlan returns the policy that attach writes into the maps. Its gate is
// closed: only the sentry knows whether Tor is there.
func FromPlan(p *plan.Plan) *Policy {
	out := &Policy{
		LocalMode:  abi.LocalModeOf(p.LocalMode),
		Addrs:      p.LocalAddrs,
		Broadcasts: p.Broadcasts,
		Exempt:     p.Exclusions.Marks,
		OurMark:    p.Mark,
		LateMarks:  len(p.Exclusions.Marks) > 0,
		Inbound:    p.Inbound,
		TimeServer: p.TimeServer,
		Onion4:     p.Onion4,
		Onion6:     p.Onion6,
	}
	for _, prefix := range p.Exclusions.Destinations {
		out.Destinations = append(out.Destinations, PrefixPolicy{prefix, abi.PolicyDirect})
	}
	for _, prefix := range p.Exclusions.Sources {
		out.Sources = append(out.Sources, PrefixPolicy{prefix, abi.PolicyDirect})
	}
	out.Local = localSubnets(p)
	for _, l := range p.LANs {
		out.LANs = append(out.LANs, l.Index)
	}
	return out
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

// policyOf returns the policy of the longest prefix that covers the address;
// of equal ones the last.
func policyOf(list []PrefixPolicy, a netip.Addr) abi.Policy {
	best, policy := -1, abi.PolicyTor
	for _, e := range list {
		if e.Prefix.Contains(a) && e.Prefix.Bits() >= best {
			best, policy = e.Prefix.Bits(), e.Policy
		}
	}
	return policy
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
