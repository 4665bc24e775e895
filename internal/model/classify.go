package model

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// Judge returns what becomes of a packet from a LAN: Classify, and while Tor
// is not ready the refusal of whatever begins.
func (p *Policy) Judge(k Packet) (abi.Verdict, abi.Reason) {
	verdict, reason := p.Classify(k)
	switch verdict {
	case abi.VerdictTor, abi.VerdictOnion, abi.VerdictDNS, abi.VerdictResolver:
		if !p.GateOpen && k.begins() && reason != abi.ReasonDNSLocal {
			return abi.VerdictRefused, abi.ReasonTorNotReady
		}
	}
	if reason == abi.ReasonDNSNoData && !p.GateOpen {
		return abi.VerdictRefused, abi.ReasonTorNotReady
	}
	return verdict, reason
}

// Classify returns the verdict on a packet from a LAN, and why.
func (p *Policy) Classify(k Packet) (abi.Verdict, abi.Reason) {
	reason := p.reason(k)
	switch reason.Verdict() {
	case abi.VerdictRefused, abi.VerdictTime:
		reason = p.reconsider(k, reason)
	}
	if reason.Verdict() == abi.VerdictDNS {
		reason = p.questionReason(k.Query, reason)
	}
	return reason.Verdict(), reason
}

// MayStay says whether a flow begun by a LAN host may stay when torbpf is
// attached: what follows of it is forwarded in clear or stays local anyway.
//
// Its connmark is not consulted: whether the user's rules would give its
// packets an exempt mark shows only when they come, so such a flow is cut and
// begins anew.
func (p *Policy) MayStay(f plan.Flow) bool {
	k := Packet{
		Layer3:   IPv6,
		Src:      f.Src.Addr().Unmap(),
		Dst:      f.Dst.Addr().Unmap(),
		SrcPort:  f.Src.Port(),
		DstPort:  f.Dst.Port(),
		Protocol: f.Protocol,
	}
	if k.Dst.Is4() {
		k.Layer3 = IPv4
	}
	verdict, _ := p.Classify(k)
	return verdict == abi.VerdictDirect || verdict == abi.VerdictLocal
}

// reason is the decision order of the design. The steps that can end it come
// first; whatever reaches the end has no way out but Tor's.
func (p *Policy) reason(k Packet) abi.Reason {
	switch k.Layer3 {
	case NotIP:
		return abi.ReasonNonIP
	case OtherVLAN:
		return abi.ReasonOtherVLAN
	case Malformed:
		return abi.ReasonMalformed
	}
	foreign := p.foreign(k.Src)
	if !k.isDNS() && !p.asksRouterEncrypted(k) {
		switch answeredOnLink := !foreign || k.isHousekeeping(); {
		case answeredOnLink && isGroup(k):
			return abi.ReasonMulticast
		case answeredOnLink && k.Layer3 == IPv6 && k.Dst.IsLinkLocalUnicast():
			return abi.ReasonLinkLocal
		}
	}
	if foreign {
		return abi.ReasonForeignSource
	}
	switch policyOf(p.Sources, k.Src) {
	case abi.PolicyBlock:
		return abi.ReasonBlockedSource
	case abi.PolicyDirect:
		if p.onion(k.Dst) {
			return abi.ReasonOnionFromDirect
		}
		return abi.ReasonDirectSource
	}
	return p.destinationReason(k)
}

// destinationReason is the order of the steps that ask where a packet goes.
func (p *Policy) destinationReason(k Packet) abi.Reason {
	switch {
	case p.onion(k.Dst):
		return onionReason(k)
	case k.isDNS():
		return p.dnsReason(k)
	case p.router(k.Dst):
		if k.Fragment != Whole && !k.isICMP() {
			return abi.ReasonFragment
		}
		if k.isEncryptedDNS() {
			return abi.ReasonRouterDNS
		}
		return abi.ReasonRouterAddress
	case policyOf(p.Destinations, k.Dst) == abi.PolicyDirect:
		return abi.ReasonDirectDestination
	case p.exempt(k.Mark):
		return abi.ReasonExemptMark
	}
	if subnet, found := p.localSubnet(k.Dst); found {
		return p.localReason(subnet)
	}
	return p.restReason(k)
}

// router says whether an address is one the router listens on.
func (p *Policy) router(a netip.Addr) bool {
	return slices.Contains(p.Addrs, a) || slices.Contains(p.Broadcasts, a)
}

// foreign says whether no LAN has a source. What the router answered to it would
// leave by the uplink.
func (p *Policy) foreign(src netip.Addr) bool {
	if src.IsUnspecified() {
		return src.Is6() // the kernel answers that, and takes it for a martian with IPv4
	}
	if src.Is6() && src.IsLinkLocalUnicast() {
		return false
	}
	subnet, _ := p.localSubnet(src)
	return subnet.Index == 0 || !slices.Contains(p.LANs, subnet.Index)
}

// asksRouterEncrypted says whether DNS over TLS or QUIC asks the router itself:
// its resolver would ask upstream in clear.
func (p *Policy) asksRouterEncrypted(k Packet) bool { return k.isEncryptedDNS() && p.router(k.Dst) }

// isGroup says whether a packet goes to many hosts at once.
func isGroup(k Packet) bool {
	return k.Dst.IsMulticast() || k.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func onionReason(k Packet) abi.Reason {
	switch {
	case k.Fragment != Whole:
		return abi.ReasonFragment
	case k.Protocol == protoTCP:
		return abi.ReasonOnionTCP
	case k.Protocol == protoUDP && k.DstPort == 53:
		return abi.ReasonOnionDNS
	default:
		return abi.ReasonOnionProtocol
	}
}

// dnsReason refuses DNS to groups of hosts, or to the IPv4 address of nobody,
// which the kernel takes for one: such a packet reaches the router's resolver
// without the socket look-up at which DNS is guarded.
func (p *Policy) dnsReason(k Packet) abi.Reason {
	switch {
	case isGroup(k), k.Layer3 == IPv4 && k.Dst.IsUnspecified(), slices.Contains(p.Broadcasts, k.Dst):
		return abi.ReasonRouterDNS
	case k.Fragment != Whole:
		return abi.ReasonFragment
	case k.Protocol == protoTCP:
		return abi.ReasonDNSTCP
	default:
		return abi.ReasonDNSUDP
	}
}

func (p *Policy) localReason(subnet plan.LocalSubnet) abi.Reason {
	switch {
	case subnet.Index != 0 && p.LocalMode != abi.LocalNone:
		return abi.ReasonLocalSubnet
	case p.LocalMode == abi.LocalReserved:
		return abi.ReasonReservedOpen
	default:
		return abi.ReasonPrivate
	}
}

func (p *Policy) restReason(k Packet) abi.Reason {
	switch {
	case k.Fragment != Whole:
		return abi.ReasonFragment
	case k.Protocol == protoTCP:
		return abi.ReasonTCP
	case k.isICMP():
		return abi.ReasonICMP
	case k.Protocol != protoUDP:
		return abi.ReasonProtocol
	case k.DstPort == 443:
		return abi.ReasonQUIC
	case k.DstPort == 123 && p.TimeServer:
		return abi.ReasonNTPRouter
	case k.DstPort == 123:
		return abi.ReasonNTP
	default:
		return abi.ReasonUDP
	}
}

// reconsider gives a refused packet to whoever may know better: conntrack, if
// the flow was seen coming from outside, or the user's prerouting rules. Neither
// knows better of a source that is no LAN's.
func (p *Policy) reconsider(k Packet, reason abi.Reason) abi.Reason {
	if reason == abi.ReasonMalformed || reason == abi.ReasonForeignSource {
		return reason
	}
	flow := InboundFlow{Protocol: k.Protocol, LAN: netip.AddrPortFrom(k.Src, k.SrcPort), Peer: netip.AddrPortFrom(k.Dst, k.DstPort)}
	if p.Inbound && p.Flows[flow] {
		return abi.ReasonInboundReply
	}
	if p.LateMarks && p.mayBeMarked(k, reason) {
		return abi.ReasonLateMark
	}
	return reason
}

// mayBeMarked: an exempt mark stands for an excluded destination, so it undoes
// only what an excluded destination would have. .onion, DNS and the router's
// own addresses come before those.
func (p *Policy) mayBeMarked(k Packet, reason abi.Reason) bool {
	if p.onion(k.Dst) || k.isDNS() || p.router(k.Dst) {
		return false
	}
	return reason != abi.ReasonBlockedSource && reason != abi.ReasonNTPRouter
}
