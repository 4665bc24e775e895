package model

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/plan"
)

// Judge returns what becomes of a packet from a LAN: Classify, the refusal of a .onion address
// that another tor than its device's gave out, and while no tor is ready of whatever begins.
func (p *Policy) Judge(k Packet) (abi.Verdict, abi.Reason) {
	verdict, reason := p.Classify(k)
	if reason == abi.ReasonOnionTCP && k.begins() && p.onionOf(k.Dst) != p.Instance(k) {
		return abi.VerdictRefused, abi.ReasonOnionMoved
	}
	switch verdict {
	case abi.VerdictTor, abi.VerdictOnion, abi.VerdictDNS, abi.VerdictResolver:
		if !p.someTor() && k.begins() && !p.needsNoTor(reason) {
			return abi.VerdictRefused, abi.ReasonTorNotReady
		}
	}
	if reason == abi.ReasonDNSNoData && !p.someTor() {
		return abi.VerdictRefused, abi.ReasonTorNotReady
	}
	return verdict, reason
}

// needsNoTor tells what the sentry answers, or may answer, by itself.
func (p *Policy) needsNoTor(reason abi.Reason) bool {
	switch reason {
	case abi.ReasonDNSLocal, abi.ReasonDNSDomain:
		return true
	case abi.ReasonDNSTCP: // for which name it sees then
		return len(p.Domains) > 0
	default:
		return false
	}
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
	verdict, _ := p.Classify(p.packetOf(f))
	return verdict == abi.VerdictDirect || verdict == abi.VerdictLocal
}

// MayLeave says whether a flow begun by a LAN host may stay if its route leads to an
// excluded interface: nothing that comes before exclusions has a say in it.
func (p *Policy) MayLeave(f plan.Flow) bool {
	k := p.packetOf(f)
	if p.takenBack(k) {
		return false
	}
	switch _, reason := p.Classify(k); reason {
	case abi.ReasonTCP, abi.ReasonUDP, abi.ReasonQUIC, abi.ReasonNTP, abi.ReasonICMP, abi.ReasonProtocol, abi.ReasonPrivate, abi.ReasonLateMark:
		return true
	}
	return false
}

// takenBack says whether a rule for the destination keeps a packet Tor's.
func (p *Policy) takenBack(k Packet) bool {
	policy, named := p.service(k)
	if !named {
		policy, named = findPolicy(p.Destinations, k.Dst, abi.PolicyTor)
	}
	return named && policy == abi.PolicyTor
}

// packetOf is a packet of a flow, from who began it.
func (p *Policy) packetOf(f plan.Flow) Packet {
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
	k.MAC = p.Neighbours[k.Src]
	return k
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
	if reason := p.sourceReason(k); reason != abi.ReasonNone {
		return reason
	}
	return p.destinationReason(k)
}

// sourceReason looks at the device's hardware address before its address.
func (p *Policy) sourceReason(k Packet) abi.Reason {
	policy, _ := findPolicy(p.Sources, k.Src, abi.PolicyBlock)
	blocked, direct := abi.ReasonBlockedSource, abi.ReasonDirectSource
	if d, ok := p.Devices[k.MAC]; ok {
		if now, found := policyNow(d.Policy, d.Ended, d.Then); found {
			policy, blocked, direct = now, abi.ReasonBlockedDevice, abi.ReasonDirectDevice
		}
	}
	switch {
	case policy == abi.PolicyBlock:
		return blocked
	case policy == abi.PolicyTor:
		return abi.ReasonNone
	case p.onion(k.Dst):
		return abi.ReasonOnionFromDirect
	}
	return direct
}

// destinationReason is the order of the steps that ask where a packet goes.
func (p *Policy) destinationReason(k Packet) abi.Reason {
	service, named := p.service(k)
	switch {
	case p.onion(k.Dst):
		return onionReason(k)
	case named && service == abi.PolicyDirect && k.isDNS() && !p.router(k.Dst) && !isBroadcast(k):
		return abi.ReasonDirectPort
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
	}
	if reason := p.excludedReason(k, service, named); reason != abi.ReasonNone {
		return reason
	}
	if subnet, found := p.localSubnet(k.Dst); found {
		return p.localReason(subnet)
	}
	return p.restReason(k)
}

// excludedReason asks the rules for destinations, of which those that name a port are
// the more specific ones, the exempt marks, and where no rule is about the packet the lists
// and the names. A mark goes before a rule that says Tor, as nftables has it, which knows
// none of those.
func (p *Policy) excludedReason(k Packet, service abi.Policy, named bool) abi.Reason {
	policy, found := findPolicy(p.Destinations, k.Dst, abi.PolicyTor)
	switch {
	case named && service == abi.PolicyDirect:
		return abi.ReasonDirectPort
	case !named && policy == abi.PolicyDirect:
		return abi.ReasonDirectDestination
	case !named && !found && p.Lists != nil && p.Lists.Has(k.Dst):
		return abi.ReasonDirectList
	case p.exempt(k.Mark):
		return abi.ReasonExemptMark
	case !named && !found && p.byName(k):
		return abi.ReasonDirectDomain
	}
	return abi.ReasonNone
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

// isBroadcast says so of a packet that needs no list of the router's subnets for it.
func isBroadcast(k Packet) bool { return isGroup(k) || k.Layer3 == IPv4 && k.Dst.IsUnspecified() }

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
	case isBroadcast(k), slices.Contains(p.Broadcasts, k.Dst):
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
	return reason != abi.ReasonBlockedSource && reason != abi.ReasonBlockedDevice && reason != abi.ReasonNTPRouter
}
