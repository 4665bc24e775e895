package model

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// The home that the tables are about. Hosts are named for their policy.
const (
	laptop4   = "192.168.1.10"
	blocked4  = "192.168.1.66"
	console4  = "192.168.1.77" // excluded
	phone4    = "192.168.1.88" // within an excluded range, but not itself
	printer4  = "192.168.1.20"
	router4   = "192.168.1.1"
	wan4      = "50.9.9.9" // the router's own, at the uplink
	subnet4   = "192.168.1.255"
	web4      = "50.0.0.1"
	excluded4 = "50.1.0.1"
	carved4   = "50.1.2.1" // through Tor, within an excluded range
	onion4    = "10.192.0.5"
	vpn4      = "10.8.0.9" // behind an interface that is no uplink
	private4  = "10.1.2.3"
	mdns4     = "224.0.0.251"
	guest4    = "192.168.2.10" // in another LAN
	forged4   = "51.0.0.1"
	stale4    = "192.168.9.10" // of a subnet the LAN had
	forged6   = "2601::1"
	stale6    = "fd00:2::10"
	guest6    = "fd00:6::10"
	peer4     = "8.0.0.10" // in a LAN without Ethernet; see TestFramesWithoutEthernet
	peer6     = "2600:0:86dd::10"

	laptop6   = "fd00:1::10"
	blocked6  = "fd00:1::66"
	console6  = "fd00:1::77"
	printer6  = "fd00:1::20"
	router6   = "fd00:1::1"
	link6     = "fe80::1" // the router's own
	web6      = "2600::1"
	excluded6 = "2600:1::1"
	carved6   = "2600:1:2::1"
	onion6    = "fd7a:6f6e::5"
	private6  = "fd00:99::1"
	mdns6     = "ff02::fb"
)

// exemptMark is one the home's rules set; torbpf lets it out.
const exemptMark = 0x4200

// home is the policy of that home, with Tor running.
func home() *Policy {
	p := &Policy{
		Destinations: []PrefixPolicy{
			{Prefix: netip.MustParsePrefix("50.1.0.0/16"), Policy: abi.PolicyDirect},
			{Prefix: netip.MustParsePrefix("50.1.2.0/24"), Policy: abi.PolicyTor},
			{Prefix: netip.MustParsePrefix("2600:1::/32"), Policy: abi.PolicyDirect},
			{Prefix: netip.MustParsePrefix("2600:1:2::/48"), Policy: abi.PolicyTor},
		},
		Sources: []PrefixPolicy{
			{Prefix: netip.MustParsePrefix(blocked4 + "/32"), Policy: abi.PolicyBlock},
			{Prefix: netip.MustParsePrefix("192.168.1.64/27"), Policy: abi.PolicyDirect},
			{Prefix: netip.MustParsePrefix(phone4 + "/32"), Policy: abi.PolicyTor},
			{Prefix: netip.MustParsePrefix(blocked6 + "/128"), Policy: abi.PolicyBlock},
			{Prefix: netip.MustParsePrefix(console6 + "/128"), Policy: abi.PolicyDirect},
		},
		LANs:      []int{lanIndex, guestIndex},
		LocalMode: abi.LocalConnected,
		Exempt:    []config.Mark{{Value: exemptMark, Mask: 0xff00}},
		Onion4:    netip.MustParsePrefix("10.192.0.0/10"),
		Onion6:    netip.MustParsePrefix("fd7a:6f6e::/32"),
		GateOpen:  true,
	}
	for _, a := range []string{router4, wan4, router6, link6} {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	p.Broadcasts = []netip.Addr{netip.MustParseAddr(subnet4)}
	for _, prefix := range plan.Reserved() {
		p.Local = append(p.Local, plan.LocalSubnet{Prefix: prefix})
	}
	for prefix, index := range map[string]int{
		"192.168.1.0/24": lanIndex, "fd00:1::/64": lanIndex, "10.8.0.0/24": 7,
		"192.168.2.0/24": guestIndex, "fd00:6::/64": guestIndex,
		"8.0.0.0/16": lanIndex, "2600:0:86dd::/48": lanIndex,
	} {
		p.Local = append(p.Local, plan.LocalSubnet{Prefix: netip.MustParsePrefix(prefix), Index: index})
	}
	return p
}

// What a row of a table may change of the home.

func torDown(p *Policy)      { p.GateOpen = false }
func lateMarks(p *Policy)    { p.LateMarks = true }
func noLocal(p *Policy)      { p.LocalMode = abi.LocalNone }
func openReserved(p *Policy) { p.LocalMode = abi.LocalReserved }

// visited lets a flow come in from outside before the packet.
func visited(protocol uint8, lan, peer string) func(*Policy) {
	f := InboundFlow{Protocol: protocol, LAN: netip.MustParseAddrPort(lan), Peer: netip.MustParseAddrPort(peer)}
	return func(p *Policy) {
		p.Inbound = true
		p.Flows = map[InboundFlow]bool{f: true}
	}
}

// visitedButOff is visited with inbound = "refuse".
func visitedButOff(p *Policy) {
	visited(protoUDP, laptop4+":27015", web4+":40000")(p)
	p.Inbound = false
}
