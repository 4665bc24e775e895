package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/torbpf/torbpf/internal/abi"
)

// What this machine says to its links: bpf/link.h is the same for the guards behind us.

var (
	groups4   = netip.MustParsePrefix("224.0.0.0/4")
	groups6   = netip.MustParsePrefix("ff00::/8")
	everybody = netip.MustParsePrefix("255.255.255.255/32")
	linkLocal = netip.MustParsePrefix("fe80::/10")
)

// toMany are the destinations of all on a link, and of groups.
var toMany = []netip.Prefix{groups4, everybody, groups6}

// portSSDP is where televisions and the like are looked for.
const portSSDP = 1900

// Types of ICMPv6 (RFC 2710, 3810, 4861).
const (
	groupQuery           = 130
	groupDone            = 132
	routerSolicitation   = 133
	neighbourAsked       = 135 // 136 is the answer
	redirected           = 137
	groupReportOfSeveral = 143
)

// housekeepingRules match that by which the kernel stays on a link; no program's words. It
// shows by its hops that it is about the link, and leads no further: what begins with all that
// there are is not taken for discovery behind a router, and one is spent at the first.
func housekeepingRules(then []expr.Any) []rule {
	discovery, memberships := "neighbour discovery and the like", "which groups it is in"
	return []rule{
		newRule(discovery, icmpv6Types(routerSolicitation, redirected), hops(ipv6, expr.CmpOpEq, abi.AllHops), toLinkGroup(ipv6), then),
		newRule(discovery, icmpv6Types(routerSolicitation, redirected), hops(ipv6, expr.CmpOpEq, abi.AllHops), toPrefix(linkLocal), then),
		newRule("of a neighbour, by the address that it has on this link",
			icmpv6Types(neighbourAsked, redirected), hops(ipv6, expr.CmpOpEq, abi.AllHops), outAndTo(ipv6), []expr.Any{in(setClientLink6)}, then),
		newRule(memberships, icmpv6Types(groupQuery, groupDone), hops(ipv6, expr.CmpOpLte, abi.LinkHops), toPrefix(groups6), then),
		newRule(memberships, icmpv6Type(groupReportOfSeveral), hops(ipv6, expr.CmpOpLte, abi.LinkHops), toPrefix(groups6), then),
		newRule(memberships, protocol(unix.IPPROTO_IGMP), hops(ipv4, expr.CmpOpLte, abi.LinkHops), toPrefix(groups4), then),
	}
}

// staysOnLink matches what goes to all or to a group and gets no further than the link, by its
// scope or its hops. SSDP takes up to four, to a group of the smallest scope there is (RFC
// 2365); other groups may be routed, and who is in them is anywhere.
func staysOnLink(then []expr.Any) []rule {
	ssdp := netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, abi.SSDPGroup4))), 32)
	return []rule{
		newRule("to all of a link", toPrefix(everybody), then),
		newRule("to a group of a link", toLinkGroup(ipv4), then),
		newRule("to a group of a link", toLinkGroup(ipv6), then),
		newRule("to a group, but by no router", toPrefix(groups4), hops(ipv4, expr.CmpOpLte, abi.LinkHops), then),
		newRule("to a group, but by no router", toPrefix(groups6), hops(ipv6, expr.CmpOpLte, abi.LinkHops), then),
		newRule("looking for televisions and the like", toPrefix(ssdp), hops(ipv4, expr.CmpOpLte, abi.SSDPHops),
			protocol(unix.IPPROTO_UDP), toPort(portSSDP), then),
	}
}

// icmpv6Types matches a range of them, both ends included.
func icmpv6Types(first, last byte) []expr.Any {
	return append(protocol(icmp6.number),
		payload(expr.PayloadBaseTransportHeader, 0, 1, reg1),
		&expr.Range{Op: expr.CmpOpEq, Register: reg1, FromData: []byte{first}, ToData: []byte{last}})
}

func icmpv6Type(kind byte) []expr.Any {
	return append(protocol(icmp6.number), payload(expr.PayloadBaseTransportHeader, 0, 1, reg1), equal([]byte{kind}))
}

// hops compares how many a packet has left.
func hops(f family, op expr.CmpOp, n uint8) []expr.Any {
	return append(isFamily(f),
		payload(expr.PayloadBaseNetworkHeader, f.hops, 1, reg1),
		&expr.Cmp{Op: op, Register: reg1, Data: []byte{n}})
}

// toLinkGroup matches the groups of a link, by how their addresses begin.
func toLinkGroup(f family) []expr.Any {
	value, mask := abi.LinkGroup4, abi.LinkGroup4Mask
	if f == ipv6 {
		value, mask = abi.LinkGroup6, abi.LinkGroup6Mask
	}
	return append(isFamily(f),
		payload(expr.PayloadBaseNetworkHeader, f.destination, 4, reg1),
		and(binary.BigEndian.AppendUint32(nil, mask)), equal(binary.BigEndian.AppendUint32(nil, value)))
}
