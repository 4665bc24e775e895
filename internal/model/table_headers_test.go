package model

import "github.com/torbpf/torbpf/internal/abi"

// fragmentRows: an excluded destination is the only one to which fragments may
// go, and DNS not even there.
func fragmentRows() []row {
	return []row{
		{name: "first fragment", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN), fragment4(0, true))), reason: abi.ReasonFragment, answer: prohibited},
		{name: "first fragment of UDP", frame: ether(ip(laptop4, web4, udp(40000, 443), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "first fragment, IPv6", frame: ether(ip(laptop6, web6, tcp(40000, 443, tcpSYN), fragment6(0, true))), reason: abi.ReasonFragment, answer: prohibited},
		{name: "first fragment with eight bytes of TCP", frame: ether(ip(laptop4, excluded4, raw(protoTCP, tcp(40000, 443, tcpSYN).bytes[:8]...), fragment4(0, true))), reason: abi.ReasonDirectDestination},
		{name: "first fragment with less", frame: ether(ip(laptop4, excluded4, raw(protoTCP, tcp(40000, 443, tcpSYN).bytes[:7]...), fragment4(0, true))), reason: abi.ReasonMalformed},
		{name: "later fragment", frame: ether(ip(laptop4, web4, raw(protoTCP, make([]byte, 64)...), fragment4(100, true))), reason: abi.ReasonFragment},
		{name: "last fragment", frame: ether(ip(laptop4, web4, raw(protoUDP, 1, 2, 3), fragment4(100, false))), reason: abi.ReasonFragment},
		{name: "later fragment, IPv6", frame: ether(ip(laptop6, web6, raw(protoTCP, make([]byte, 64)...), fragment6(100, true))), reason: abi.ReasonFragment},
		{name: "last fragment, IPv6", frame: ether(ip(laptop6, web6, raw(protoUDP, 1, 2, 3), fragment6(1, false))), reason: abi.ReasonFragment},
		{name: "atomic fragment", frame: ether(ip(laptop6, web6, tcp(40000, 443, tcpSYN), fragment6(0, false))), reason: abi.ReasonFragment, answer: prohibited},
		{name: "fragments to an excluded address", frame: ether(ip(laptop4, excluded4, udp(40000, 443, make([]byte, 64)...), fragment4(0, true))), reason: abi.ReasonDirectDestination},
		{name: "later fragments to an excluded address", frame: ether(ip(laptop6, excluded6, raw(protoUDP, make([]byte, 64)...), fragment6(9, false))), reason: abi.ReasonDirectDestination},
		{name: "DNS in fragments to an excluded address", frame: ether(ip(laptop4, excluded4, udp(40000, 53, make([]byte, 64)...), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "DNS in fragments to an excluded address, IPv6", frame: ether(ip(laptop6, excluded6, udp(40000, 53, make([]byte, 64)...), fragment6(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "DNS by TCP in fragments", frame: ether(ip(laptop4, excluded4, tcp(40000, 53, tcpSYN), fragment4(0, true))), reason: abi.ReasonFragment, answer: prohibited},
		{name: "DNS in an atomic fragment", frame: ether(ip(laptop6, excluded6, udp(40000, 53, dnsQuery()...), fragment6(0, false))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "DNS in fragments to link-local", frame: ether(ip("fe80::a", link6, udp(40000, 53, make([]byte, 64)...), fragment6(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "fragment to the router", frame: ether(ip(laptop4, router4, udp(40000, 67), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "later fragment to the router", frame: ether(ip(laptop4, router4, raw(protoUDP, make([]byte, 64)...), fragment4(1, false))), reason: abi.ReasonFragment},
		{name: "a long ping to the router", frame: ether(ip(laptop4, router4, ping(), fragment4(0, true))), reason: abi.ReasonRouterAddress},
		{name: "the rest of a long ping to the router, IPv6", frame: ether(ip(laptop6, router6, raw(protoICMPv6, make([]byte, 64)...), fragment6(9, false))), reason: abi.ReasonRouterAddress},
		{name: "fragment to a neighbour", frame: ether(ip(laptop4, printer4, raw(protoUDP, 1, 2), fragment4(1, false))), reason: abi.ReasonLocalSubnet},
		{name: "fragment to .onion", frame: ether(ip(laptop4, onion4, tcp(40000, 80, tcpSYN), fragment4(0, true))), reason: abi.ReasonFragment, answer: prohibited},
		{name: "a second fragment header that says later", frame: ether(ip(laptop6, router6, udp(40000, 67), fragment6(0, false), fragment6(1, false))), reason: abi.ReasonFragment},
	}
}

// extensionRows: up to six extension headers are read; what hides behind more,
// or behind one that is cut off, is refused wherever it goes.
func extensionRows() []row {
	query := udp(40000, 53, dnsQuery()...)
	six := []part{ext(extHopByHop, 0), ext(extDestination, 1), ext(extRouting, 0), ext(extDestination, 0), ext(extDestination, 3), ext(extDestination, 0)}
	cut := ip(laptop6, excluded6, query, ext(extDestination, 20))
	return []row{
		{name: "hop-by-hop options", frame: ether(ip(laptop6, web6, tcp(40000, 443, tcpSYN), ext(extHopByHop, 0))), reason: abi.ReasonTCP},
		{name: "DNS behind hop-by-hop options", frame: ether(ip(laptop6, router6, query, ext(extHopByHop, 0))), reason: abi.ReasonDNSUDP},
		{name: "DNS behind destination options", frame: ether(ip(laptop6, excluded6, query, ext(extDestination, 2))), reason: abi.ReasonDNSUDP},
		{name: "DNS behind a routing header", frame: ether(ip(laptop6, excluded6, query, ext(extRouting, 0))), reason: abi.ReasonDNSUDP},
		{name: "DNS behind six headers", frame: ether(ip(laptop6, excluded6, query, six...)), reason: abi.ReasonDNSUDP},
		{name: "DNS behind seven headers", frame: ether(ip(laptop6, excluded6, query, append(six, ext(extDestination, 0))...)), reason: abi.ReasonMalformed},
		{name: "DNS in a fragment behind five headers", frame: ether(ip(laptop6, excluded6, query, append(six[:5:5], fragment6(0, true))...)), reason: abi.ReasonFragment, answer: unreachable},
		{name: "later fragment behind six headers", frame: ether(ip(laptop6, router6, query, append(six, fragment6(8, true))...)), reason: abi.ReasonMalformed},
		{name: "options behind a later fragment are data", frame: ether(ip(laptop6, router6, raw(extDestination, 1, 2), fragment6(8, true))), reason: abi.ReasonFragment},
		{name: "refused behind options", frame: ether(ip(laptop6, private6, tcp(40000, 443, tcpSYN), ext(extDestination, 0))), reason: abi.ReasonPrivate, answer: reset},
		{name: "options cut off", frame: ether(cut[:40+8]), reason: abi.ReasonMalformed},
		{name: "options cut off, then a protocol without ports", frame: ether(ip(laptop6, excluded6, raw(protoGRE), ext(extDestination, 20))[:40+16]), reason: abi.ReasonMalformed},
		{name: "the header of nothing", frame: ether(ip(laptop6, web6, raw(59))), reason: abi.ReasonProtocol},
		{name: "authentication header", frame: ether(ip(laptop6, web6, raw(51, make([]byte, 24)...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "mobility header", frame: ether(ip(laptop6, web6, raw(135, make([]byte, 8)...))), reason: abi.ReasonProtocol, answer: prohibited},
	}
}

// vlanRows: a tag that is still in the data. What the kernel takes off before
// is in wire_test.go.
func vlanRows() []row {
	packet := ip(laptop4, web4, udp(40000, 53, dnsQuery()...))
	game := ip(laptop4, web4, udp(40000, 27015))
	return []row{
		{name: "another VLAN", frame: ether(packet, 0x8100_0064), reason: abi.ReasonOtherVLAN},
		{name: "another VLAN, 802.1ad", frame: ether(packet, 0x88a8_0064), reason: abi.ReasonOtherVLAN},
		{name: "two tags, outer another VLAN", frame: ether(packet, 0x88a8_0064, 0x8100_0001), reason: abi.ReasonOtherVLAN},
		{name: "priority tag", frame: ether(packet, 0x8100_0000), reason: abi.ReasonDNSUDP},
		{name: "priority tag with a priority", frame: ether(packet, 0x8100_e000), reason: abi.ReasonDNSUDP},
		{name: "two priority tags", frame: ether(packet, 0x88a8_0000, 0x8100_0000), reason: abi.ReasonDNSUDP},
		{name: "three priority tags", frame: ether(packet, 0x8100_0000, 0x8100_0000, 0x8100_0000), reason: abi.ReasonMalformed},
		{name: "priority tag, then another VLAN", frame: ether(packet, 0x8100_0000, 0x8100_0064), reason: abi.ReasonOtherVLAN},
		{name: "refused behind a priority tag", frame: ether(game, 0x8100_0000), reason: abi.ReasonUDP},
		{name: "a tag cut off", frame: ether(packet, 0x8100_0000)[:17], reason: abi.ReasonMalformed},
	}
}

func malformedRows() []row {
	wrongVersion := ip(laptop4, excluded4, udp(1, 2))
	wrongVersion[0] = 0x65
	shortHeader := ip(laptop4, excluded4, udp(1, 2))
	shortHeader[0] = 0x44
	longHeader := ip(laptop4, excluded4, raw(protoGRE, 1, 2, 3))
	longHeader[0] = 0x4f
	wrong6 := ip(laptop6, excluded6, udp(1, 2))
	wrong6[0] = 0x45
	ethernet := func(etherType uint16, b []byte) []byte { return etherRaw(etherType, b...) }
	return []row{
		{name: "IPv4 that says version 6", frame: ethernet(etherIPv4, wrongVersion), reason: abi.ReasonMalformed},
		{name: "IPv6 that says version 4", frame: ethernet(etherIPv6, wrong6), reason: abi.ReasonMalformed},
		{name: "an IPv4 header of 16 bytes", frame: ethernet(etherIPv4, shortHeader), reason: abi.ReasonMalformed},
		{name: "IPv4 options beyond the frame", frame: ethernet(etherIPv4, longHeader), reason: abi.ReasonMalformed},
		{name: "TCP of 19 bytes", frame: ether(ip(laptop4, excluded4, raw(protoTCP, make([]byte, 19)...))), reason: abi.ReasonMalformed},
		{name: "UDP of 7 bytes", frame: ether(ip(laptop6, excluded6, raw(protoUDP, make([]byte, 7)...))), reason: abi.ReasonMalformed},
		{name: "ICMP of 7 bytes", frame: ether(ip(laptop4, router4, raw(protoICMP, make([]byte, 7)...))), reason: abi.ReasonMalformed},
		{name: "IPv6 from an IPv4 address", frame: ether(ip("::ffff:"+console4, web6, udp(1, 2))), reason: abi.ReasonMalformed},
		{name: "IPv6 to an IPv4 address", frame: ether(ip(laptop6, "::ffff:"+excluded4, udp(1, 2))), reason: abi.ReasonMalformed},
	}
}

// gateRows: while Tor is not ready, what begins is refused.
func gateRows() []row {
	query := dnsQuery()
	unsummed := ether(ip(laptop4, router4, segment{protoUDP, udp(40000, 53, query...).bytes, -1}))
	return []row{
		{name: "Tor down, TCP begins", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTorNotReady, answer: reset, home: torDown},
		{name: "Tor down, TCP begins, IPv6", frame: ether(ip(laptop6, web6, tcp(40000, 443, tcpSYN|0xc0))), reason: abi.ReasonTorNotReady, answer: reset, home: torDown},
		{name: "Tor down, .onion", frame: ether(ip(laptop4, onion4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTorNotReady, answer: reset, home: torDown},
		{name: "Tor down, TCP goes on", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpACK))), reason: abi.ReasonTCP, home: torDown},
		{name: "Tor down, TCP answers a visitor", frame: ether(ip(laptop4, web4, tcp(443, 40000, tcpSYN|tcpACK))), reason: abi.ReasonTCP, home: torDown},
		{name: "Tor down, DNS", frame: ether(ip(laptop4, router4, udp(40000, 53, query...))), reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
		{name: "Tor down, DNS, IPv6", frame: ether(ip(laptop6, router6, udp(40000, 53, query...))), reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
		{name: "Tor down, DNS behind options, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 53, query...), ext(extDestination, 0))), reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
		{name: "Tor down, DNS without a checksum", frame: unsummed, reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
		{name: "Tor down, DNS of .onion", frame: ether(ip(laptop4, onion4, udp(40000, 53, query...))), reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
		{name: "Tor down, an answer sent to port 53", frame: ether(ip(laptop4, web4, udp(40000, 53, append([]byte{1, 2, 0x80}, query[3:]...)...))), reason: abi.ReasonTorNotReady, home: torDown},
		{name: "Tor down, no DNS header", frame: ether(ip(laptop4, web4, udp(40000, 53, query[:11]...))), reason: abi.ReasonTorNotReady, home: torDown},
		{name: "Tor down, DNS by TCP", frame: ether(ip(laptop4, web4, tcp(40000, 53, tcpSYN))), reason: abi.ReasonTorNotReady, answer: reset, home: torDown},
		{name: "Tor down, to an excluded address", frame: ether(ip(laptop4, excluded4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonDirectDestination, home: torDown},
		{name: "Tor down, to the router", frame: ether(ip(laptop4, router4, tcp(40000, 22, tcpSYN))), reason: abi.ReasonRouterAddress, home: torDown},
		{name: "Tor down, UDP", frame: ether(ip(laptop4, web4, udp(40000, 27015))), reason: abi.ReasonUDP, answer: unreachable, home: torDown},
	}
}
