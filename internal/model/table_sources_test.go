package model

import (
	"net/netip"

	"github.com/torbpf/torbpf/internal/abi"
)

// excludedForged excludes sources that no LAN has, which changes nothing.
func excludedForged(p *Policy) {
	for _, prefix := range []string{forged4 + "/32", forged6 + "/128"} {
		p.Sources = append(p.Sources, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Policy: abi.PolicyDirect})
	}
}

// foreignRows: a source that no LAN has is refused in silence wherever it goes,
// since whatever answers it answers by the uplink.
func foreignRows() []row {
	query := dnsQuery()
	refused := func(name string, packet []byte, home func(*Policy)) row {
		return row{name: name, frame: ether(packet), reason: abi.ReasonForeignSource, home: home}
	}
	passes := func(name string, packet []byte, reason abi.Reason) row {
		return row{name: name, frame: ether(packet), reason: reason}
	}
	return []row{
		refused("forged, TCP", ip(forged4, web4, tcp(40000, 443, tcpSYN)), nil),
		refused("forged, TCP, IPv6", ip(forged6, web6, tcp(40000, 443, tcpSYN)), nil),
		refused("forged, SSH to the router", ip(forged4, router4, tcp(40000, 22, tcpSYN)), nil),
		refused("forged, ping to the router", ip(forged4, router4, ping()), nil),
		refused("forged, ping to the router, IPv6", ip(forged6, router6, ping6()), nil),
		refused("forged, UDP", ip(forged4, web4, udp(40000, 27015)), nil),
		refused("forged, DNS", ip(forged4, router4, udp(40000, 53, query...)), nil),
		refused("forged, DNS, IPv6", ip(forged6, web6, udp(40000, 53, query...)), nil),
		refused("forged, DNS by TCP", ip(forged4, web4, tcp(40000, 53, tcpSYN)), nil),
		refused("forged, DNS over TLS to the router", ip(forged4, router4, tcp(40000, 853, tcpSYN)), nil),
		refused("forged, DNS to link-local", ip(forged6, link6, udp(40000, 53, query...)), nil),
		refused("forged, .onion", ip(forged4, onion4, tcp(40000, 80, tcpSYN)), nil),
		refused("forged, to an excluded address", ip(forged4, excluded4, udp(40000, 443)), nil),
		refused("forged, to a neighbour", ip(forged4, printer4, udp(40000, 443)), nil),
		refused("forged, TCP to link-local", ip(forged6, link6, tcp(40000, 22, tcpSYN)), nil),
		refused("forged, UDP to link-local", ip(forged6, link6, udp(40000, 22)), nil),
		refused("forged, ping to link-local, IPv4", ip(forged4, "169.254.1.1", ping()), nil),
		refused("forged, a fragment", ip(forged4, web4, raw(protoUDP, 1, 2, 3), fragment4(9, false)), nil),
		refused("forged, while Tor is down", ip(forged4, router4, udp(40000, 53, query...)), torDown),
		refused("forged, and excluded", ip(forged4, web4, udp(40000, 443)), excludedForged),
		refused("forged, and excluded, IPv6", ip(forged6, web6, udp(40000, 443)), excludedForged),
		refused("forged, where marks may come late", ip(forged4, web4, udp(40000, 443)), lateMarks),
		refused("forged, as if a visitor had come", ip(forged4, web4, udp(27015, 40000)), visited(protoUDP, forged4+":27015", web4+":40000")),
		{name: "forged, with an exempt mark", frame: ether(ip(forged4, web4, udp(40000, 443))), reason: abi.ReasonForeignSource, mark: exemptMark},
		refused("of a subnet that was", ip(stale4, web4, tcp(40000, 443, tcpACK, 1, 2, 3)), nil),
		refused("of a subnet that was, IPv6", ip(stale6, web6, tcp(40000, 443, tcpSYN)), nil),
		refused("link-local, IPv4", ip("169.254.7.7", web4, tcp(40000, 443, tcpSYN)), nil),
		refused("of a subnet that is no LAN's", ip(vpn4, web4, tcp(40000, 443, tcpSYN)), nil),
		refused("the router's own at the uplink", ip(wan4, web4, tcp(40000, 443, tcpSYN)), nil),
		refused("of the Internet's many", ip("ff05::2", router6, tcp(40000, 22, tcpSYN)), nil),
		passes("the router's own in the LAN", ip(router4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		passes("the router's own in the LAN, IPv6", ip(router6, web6, tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		passes("of another LAN", ip(guest4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		passes("of another LAN, IPv6", ip(guest6, router6, udp(40000, 53, query...)), abi.ReasonDNSUDP),
		passes("link-local", ip("fe80::a", router6, ping6()), abi.ReasonRouterAddress),
		passes("nobody", ip("0.0.0.0", web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		refused("nobody, ping to the router, IPv6", ip("::", router6, ping6()), nil),
		refused("nobody, TCP, IPv6", ip("::", web6, tcp(40000, 443, tcpSYN)), nil),
		refused("nobody, ping to link-local", ip("::", link6, ping6()), nil),
		refused("nobody, ping to all", ip("::", "ff02::1", ping6()), nil),
		refused("forged, ping to link-local", ip(forged6, link6, ping6()), nil),
		refused("forged, ping to all", ip(forged6, "ff02::1", ping6()), nil),
		refused("forged, ping to all, IPv4", ip(forged4, "224.0.0.1", ping()), nil),
		refused("forged, multicast DNS", ip(forged4, mdns4, udp(5353, 5353, query...)), nil),
		refused("forged, UDP to all, IPv6", ip(forged6, "ff02::1", udp(67, 67)), nil),
		refused("forged, an ICMP error to all", ip(forged6, "ff02::1", icmp(protoICMPv6, 4, 0)), nil),
		passes("nobody, is the address taken", ip("::", "ff02::1:ff00:1", icmp(protoICMPv6, 135, 0)), abi.ReasonMulticast),
		passes("nobody, membership", ip("::", "ff02::16", icmp(protoICMPv6, 143, 0)), abi.ReasonMulticast),
		passes("nobody, where is the router", ip("::", "ff02::2", icmp(protoICMPv6, 133, 0)), abi.ReasonMulticast),
		passes("nobody, DHCP", ip("0.0.0.0", "255.255.255.255", udp(68, 67)), abi.ReasonMulticast),
		passes("forged, membership", ip(stale6, "ff02::16", icmp(protoICMPv6, 143, 0)), abi.ReasonMulticast),
		passes("TCP to link-local", ip(laptop6, link6, tcp(40000, 22, tcpSYN)), abi.ReasonLinkLocal),
		passes("forged, DHCP once more", ip(stale4, "255.255.255.255", udp(68, 67)), abi.ReasonMulticast),
		passes("forged, neighbour solicitation", ip(stale6, link6, icmp(protoICMPv6, 135, 0)), abi.ReasonLinkLocal),
		{name: "forged, ARP", frame: etherRaw(0x0806, make([]byte, 28)...), reason: abi.ReasonNonIP},
	}
}
