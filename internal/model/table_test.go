package model

import (
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
)

// row is one packet of a LAN host and what must become of it.
type row struct {
	name   string
	frame  []byte
	reason abi.Reason
	answer answer
	home   func(*Policy) // changes the home before; nil: as it is
	mark   uint32        // of the packet as it arrives
}

// rows is the whole table.
func rows() []row {
	return slices.Concat(
		plainRows(), dnsRows(), noDataRows(), unreadRows(), localNameRows(), onionRows(), localRows(), exclusionRows(),
		laterRows(), fragmentRows(), extensionRows(), vlanRows(), malformedRows(), gateRows(), foreignRows(), timeRows(),
		serviceRows(), deviceRows(), listRows(), endedRows(), lifeRows(), domainRows())
}

// Protocols that the rows name by number.
const (
	protoIGMP = 2
	protoIPIP = 4
	protoGRE  = 47
	protoESP  = 50
	protoSCTP = 132
	protoLite = 136 // UDP-Lite, which has ports, too
)

func plainRows() []row {
	return []row{
		{name: "TCP, IPv4", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTCP},
		{name: "TCP, IPv6", frame: ether(ip(laptop6, web6, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTCP},
		{name: "TCP in the middle", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpACK, 1, 2, 3))), reason: abi.ReasonTCP},
		{name: "TCP with IP options", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN), options(1, 1, 1, 1))), reason: abi.ReasonTCP},
		{name: "TCP with all IP options there can be", frame: ether(ip(laptop4, web4, tcp(40000, 443, tcpSYN), options(make([]byte, 40)...))), reason: abi.ReasonTCP},
		{name: "UDP, IPv4", frame: ether(ip(laptop4, web4, udp(40000, 27015, 'x'))), reason: abi.ReasonUDP, answer: unreachable},
		{name: "UDP, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 27015, 'x'))), reason: abi.ReasonUDP, answer: unreachable},
		{name: "UDP without payload", frame: ether(ip(laptop4, web4, udp(40000, 27015))), reason: abi.ReasonUDP, answer: unreachable},
		{name: "UDP, jumbo", frame: ether(ip(laptop4, web4, udp(40000, 27015, make([]byte, 3500)...))), reason: abi.ReasonUDP, answer: unreachable},
		{name: "UDP with IP options", frame: ether(ip(laptop4, web4, udp(40000, 27015), options(1, 1, 1, 1))), reason: abi.ReasonUDP},
		{name: "UDP from port 53", frame: ether(ip(laptop4, web4, udp(53, 27015))), reason: abi.ReasonUDP, answer: unreachable},
		{name: "QUIC, IPv4", frame: ether(ip(laptop4, web4, udp(40000, 443, make([]byte, 1200)...))), reason: abi.ReasonQUIC, answer: unreachable},
		{name: "QUIC, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 443, make([]byte, 1200)...))), reason: abi.ReasonQUIC, answer: unreachable},
		{name: "NTP, IPv4", frame: ether(ip(laptop4, web4, udp(123, 123, make([]byte, 48)...))), reason: abi.ReasonNTP, answer: unreachable},
		{name: "NTP, IPv6", frame: ether(ip(laptop6, web6, udp(123, 123, make([]byte, 48)...))), reason: abi.ReasonNTP, answer: unreachable},
		{name: "ping, IPv4", frame: ether(ip(laptop4, web4, ping())), reason: abi.ReasonICMP, answer: prohibited},
		{name: "ping, IPv6", frame: ether(ip(laptop6, web6, ping6())), reason: abi.ReasonICMP, answer: prohibited},
		{name: "an ICMP error", frame: ether(ip(laptop4, web4, icmp(protoICMP, 3, 0))), reason: abi.ReasonICMP},
		{name: "an echo reply, IPv6", frame: ether(ip(laptop6, web6, icmp(protoICMPv6, 129, 77))), reason: abi.ReasonICMP},
		{name: "ICMPv6 over IPv4", frame: ether(ip(laptop4, web4, raw(protoICMPv6, ping6().bytes...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "ICMP over IPv6", frame: ether(ip(laptop6, web6, raw(protoICMP, ping().bytes...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "GRE", frame: ether(ip(laptop4, web4, raw(protoGRE, make([]byte, 40)...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "ESP, IPv6", frame: ether(ip(laptop6, web6, raw(protoESP, make([]byte, 40)...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "SCTP", frame: ether(ip(laptop4, web4, raw(protoSCTP, make([]byte, 40)...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "a tunnel with DNS inside", frame: ether(ip(laptop4, web4, raw(protoIPIP, ip(laptop4, web4, udp(40000, 53, dnsQuery()...))...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "UDP-Lite to the port of DNS", frame: ether(ip(laptop4, web4, raw(protoLite, udp(40000, 53, dnsQuery()...).bytes...))), reason: abi.ReasonProtocol, answer: prohibited},
		{name: "too short to be quoted", frame: ether(ip(laptop4, web4, raw(protoGRE, 1, 2, 3))), reason: abi.ReasonProtocol},
		{name: "ARP", frame: etherRaw(0x0806, make([]byte, 28)...), reason: abi.ReasonNonIP},
		{name: "LLDP", frame: etherRaw(0x88cc, 2, 7, 4), reason: abi.ReasonNonIP},
		{name: "an 802.3 frame", frame: etherRaw(0x0026, 0x42, 0x42, 3), reason: abi.ReasonNonIP},
		{name: "PPPoE", frame: etherRaw(0x8864, 0x11, 0, 0, 1, 0, 2, 0, 0x21), reason: abi.ReasonNonIP},
		{name: "to a group of Ethernet stations", frame: etherTo(groupMAC, hostMAC, ip(laptop4, web4, udp(40000, 27015))), reason: abi.ReasonUDP},
		{name: "from a group of Ethernet stations", frame: etherTo(routerMAC, groupMAC, ip(laptop4, web4, udp(40000, 27015))), reason: abi.ReasonUDP},
		{name: "overheard, for another station", frame: etherTo([6]byte{2, 0, 0, 0, 0, 99}, hostMAC, ip(laptop4, web4, udp(40000, 27015))), reason: abi.ReasonUDP},
		{name: "from nobody, IPv4", frame: ether(ip("0.0.0.0", web4, udp(40000, 27015))), reason: abi.ReasonUDP},
		{name: "from loopback", frame: ether(ip("127.0.0.1", web4, udp(40000, 27015))), reason: abi.ReasonForeignSource},
		{name: "from a group, IPv4", frame: ether(ip("224.0.0.1", web4, udp(40000, 27015))), reason: abi.ReasonForeignSource},
		{name: "from a group, IPv6", frame: ether(ip("ff02::1", web6, udp(40000, 27015))), reason: abi.ReasonForeignSource},
		{name: "from nobody, IPv6", frame: ether(ip("::", web6, udp(40000, 27015))), reason: abi.ReasonForeignSource},
	}
}

func dnsRows() []row {
	query := dnsQuery()
	return []row{
		{name: "DNS to a public resolver", frame: ether(ip(laptop4, web4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to a public resolver, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to the router", frame: ether(ip(laptop4, router4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to the router, IPv6", frame: ether(ip(laptop6, router6, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to the router's link-local address", frame: ether(ip("fe80::a", link6, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to a link-local address, IPv4", frame: ether(ip(laptop4, "169.254.1.1", udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to an excluded address", frame: ether(ip(laptop4, excluded4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to a neighbour", frame: ether(ip(laptop4, printer4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS to a private address", frame: ether(ip(laptop4, private4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP},
		{name: "DNS with an exempt mark", frame: ether(ip(laptop4, web4, udp(40000, 53, query...))), reason: abi.ReasonDNSUDP, mark: exemptMark},
		{name: "DNS by TCP", frame: ether(ip(laptop4, web4, tcp(40000, 53, tcpSYN))), reason: abi.ReasonDNSTCP},
		{name: "DNS by TCP to the router, IPv6", frame: ether(ip(laptop6, router6, tcp(40000, 53, tcpSYN))), reason: abi.ReasonDNSTCP},
		{name: "DNS by TCP to link-local", frame: ether(ip("fe80::a", link6, tcp(40000, 53, tcpSYN))), reason: abi.ReasonDNSTCP},
		{name: "DNS over TLS", frame: ether(ip(laptop4, web4, tcp(40000, 853, tcpSYN))), reason: abi.ReasonTCP},
		{name: "DNS over TLS to the router", frame: ether(ip(laptop4, router4, tcp(40000, 853, tcpSYN))), reason: abi.ReasonRouterDNS, answer: reset},
		{name: "DNS over TLS to the router, IPv6", frame: ether(ip(laptop6, router6, tcp(40000, 853, tcpSYN))), reason: abi.ReasonRouterDNS, answer: reset},
		{name: "DNS over TLS to the router's link-local address", frame: ether(ip("fe80::a", link6, tcp(40000, 853, tcpSYN))), reason: abi.ReasonRouterDNS, answer: reset},
		{name: "DNS over TLS to the router where marks may come late", frame: ether(ip(laptop4, wan4, tcp(40000, 853, tcpSYN))), reason: abi.ReasonRouterDNS, answer: reset, home: lateMarks},
		{name: "DNS over QUIC to the router", frame: ether(ip(laptop4, router4, udp(40000, 853, query...))), reason: abi.ReasonRouterDNS, answer: unreachable},
		{name: "DNS over QUIC to the router, in fragments", frame: ether(ip(laptop4, router4, udp(40000, 853, query...), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable},
		{name: "DNS over TLS to a neighbour", frame: ether(ip(laptop4, printer4, tcp(40000, 853, tcpSYN))), reason: abi.ReasonLocalSubnet},
		{name: "DNS over TLS to another's link-local address", frame: ether(ip("fe80::a", "fe80::b", tcp(40000, 853, tcpSYN))), reason: abi.ReasonLinkLocal},
		{name: "DNS over TLS to the router from an excluded host", frame: ether(ip(console4, router4, tcp(40000, 853, tcpSYN))), reason: abi.ReasonDirectSource},
		{name: "SCTP to port 853 of the router", frame: ether(ip(laptop4, router4, raw(protoSCTP, tcp(40000, 853, 0).bytes...))), reason: abi.ReasonRouterAddress},
		{name: "DNS from an excluded host", frame: ether(ip(console4, router4, udp(40000, 53, query...))), reason: abi.ReasonDirectSource},
		{name: "DNS from a blocked host", frame: ether(ip(blocked4, router4, udp(40000, 53, query...))), reason: abi.ReasonBlockedSource, answer: unreachable},
		{name: "DNS by multicast", frame: etherTo(groupMAC, hostMAC, ip(laptop4, "224.0.0.1", udp(40000, 53, query...))), reason: abi.ReasonRouterDNS},
		{name: "DNS by multicast, IPv6", frame: etherTo(groupMAC, hostMAC, ip(laptop6, "ff02::1", udp(40000, 53, query...))), reason: abi.ReasonRouterDNS},
		{name: "DNS by broadcast", frame: etherTo(groupMAC, hostMAC, ip(laptop4, "255.255.255.255", udp(40000, 53, query...))), reason: abi.ReasonRouterDNS},
		{name: "DNS by broadcast in the subnet, for the router alone", frame: ether(ip(laptop4, subnet4, udp(40000, 53, query...))), reason: abi.ReasonRouterDNS, answer: unreachable},
		{name: "DNS by broadcast, the old way", frame: etherTo(groupMAC, hostMAC, ip("0.0.0.0", "0.0.0.0", udp(40000, 53, query...))), reason: abi.ReasonRouterDNS},
		{name: "DNS by multicast from an excluded host", frame: etherTo(groupMAC, hostMAC, ip(console4, "224.0.0.1", udp(40000, 53, query...))), reason: abi.ReasonDirectSource},
		{name: "multicast DNS", frame: etherTo(groupMAC, hostMAC, ip(laptop4, mdns4, udp(5353, 5353, query...))), reason: abi.ReasonMulticast},
		{name: "multicast DNS, IPv6", frame: etherTo(groupMAC, hostMAC, ip(laptop6, mdns6, udp(5353, 5353, query...))), reason: abi.ReasonMulticast},
		{name: "ICMP whose identifier is 53", frame: ether(ip(laptop4, router4, icmp(protoICMP, 8, 53))), reason: abi.ReasonRouterAddress},
	}
}

func onionRows() []row {
	return []row{
		{name: "TCP to .onion", frame: ether(ip(laptop4, onion4, tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionTCP},
		{name: "TCP to .onion, IPv6", frame: ether(ip(laptop6, onion6, tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionTCP},
		{name: "TCP to .onion, first and last address", frame: ether(ip(laptop4, "10.255.255.255", tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionTCP},
		{name: "TCP just past .onion", frame: ether(ip(laptop4, "10.191.255.255", tcp(40000, 80, tcpSYN))), reason: abi.ReasonPrivate, answer: reset},
		{name: "TCP just past .onion, IPv6", frame: ether(ip(laptop6, "fd7a:6f6f::5", tcp(40000, 80, tcpSYN))), reason: abi.ReasonPrivate, answer: reset},
		{name: ".onion with an exempt mark", frame: ether(ip(laptop4, onion4, tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionTCP, mark: exemptMark},
		{name: "DNS to .onion", frame: ether(ip(laptop4, onion4, udp(40000, 53, dnsQuery()...))), reason: abi.ReasonOnionDNS},
		{name: "DNS by TCP to .onion", frame: ether(ip(laptop4, onion4, tcp(40000, 53, tcpSYN))), reason: abi.ReasonOnionTCP},
		{name: "UDP to .onion", frame: ether(ip(laptop4, onion4, udp(40000, 443))), reason: abi.ReasonOnionProtocol, answer: unreachable},
		{name: "ping to .onion, IPv6", frame: ether(ip(laptop6, onion6, ping6())), reason: abi.ReasonOnionProtocol, answer: prohibited},
		{name: "UDP to .onion where marks may come late", frame: ether(ip(laptop4, onion4, udp(40000, 443))), reason: abi.ReasonOnionProtocol, answer: unreachable, home: lateMarks},
		{name: "a fragment to .onion where marks may come late", frame: ether(ip(laptop4, onion4, udp(40000, 443), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable, home: lateMarks},
		{name: ".onion from an excluded host", frame: ether(ip(console4, onion4, tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionFromDirect, answer: reset},
		{name: ".onion from an excluded host, IPv6", frame: ether(ip(console6, onion6, tcp(40000, 80, tcpSYN))), reason: abi.ReasonOnionFromDirect, answer: reset},
	}
}

func localRows() []row {
	return []row{
		{name: "DHCP", frame: etherTo(groupMAC, hostMAC, ip("0.0.0.0", "255.255.255.255", udp(68, 67, make([]byte, 240)...))), reason: abi.ReasonMulticast},
		{name: "DHCP from a blocked host", frame: etherTo(groupMAC, hostMAC, ip(blocked4, "255.255.255.255", udp(68, 67))), reason: abi.ReasonMulticast},
		{name: "neighbour solicitation", frame: etherTo(groupMAC, hostMAC, ip("fe80::a", "ff02::1:ff00:1", icmp(protoICMPv6, 135, 0))), reason: abi.ReasonMulticast},
		{name: "IGMP", frame: etherTo(groupMAC, hostMAC, ip(laptop4, "224.0.0.22", raw(protoIGMP, make([]byte, 8)...))), reason: abi.ReasonMulticast},
		{name: "multicast of the Internet", frame: etherTo(groupMAC, hostMAC, ip(laptop4, "233.252.0.1", udp(5000, 5000))), reason: abi.ReasonMulticast},
		{name: "neighbour advertisement", frame: ether(ip("fe80::a", link6, icmp(protoICMPv6, 136, 0))), reason: abi.ReasonLinkLocal},
		{name: "link-local, IPv4", frame: ether(ip(laptop4, "169.254.1.1", tcp(40000, 80, tcpSYN))), reason: abi.ReasonPrivate, answer: reset},
		{name: "SSH to the router", frame: ether(ip(laptop4, router4, tcp(40000, 22, tcpSYN))), reason: abi.ReasonRouterAddress},
		{name: "ping to the router, IPv6", frame: ether(ip(laptop6, router6, ping6())), reason: abi.ReasonRouterAddress},
		{name: "to the router's address at the uplink", frame: ether(ip(laptop4, wan4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonRouterAddress},
		{name: "broadcast in the subnet", frame: etherTo(groupMAC, hostMAC, ip(laptop4, subnet4, udp(137, 137))), reason: abi.ReasonRouterAddress},
		{name: "the router where local is none", frame: ether(ip(laptop4, router4, tcp(40000, 22, tcpSYN))), reason: abi.ReasonRouterAddress, home: noLocal},
		{name: "IPv6 to the IPv4 address of the router", frame: ether(ip(laptop6, "::ffff:"+router4, tcp(40000, 22, tcpSYN))), reason: abi.ReasonMalformed},
		{name: "a neighbour", frame: ether(ip(laptop4, printer4, udp(40000, 9100))), reason: abi.ReasonLocalSubnet},
		{name: "a neighbour, IPv6", frame: ether(ip(laptop6, printer6, tcp(40000, 9100, tcpSYN))), reason: abi.ReasonLocalSubnet},
		{name: "a subnet behind a VPN", frame: ether(ip(laptop4, vpn4, tcp(40000, 22, tcpSYN))), reason: abi.ReasonLocalSubnet},
		{name: "a neighbour where local is none", frame: ether(ip(laptop4, printer4, udp(40000, 9100))), reason: abi.ReasonPrivate, answer: unreachable, home: noLocal},
		{name: "a neighbour where local is reserved", frame: ether(ip(laptop4, printer4, udp(40000, 9100))), reason: abi.ReasonLocalSubnet, home: openReserved},
		{name: "private, beyond", frame: ether(ip(laptop4, private4, tcp(40000, 80, tcpSYN))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, IPv6", frame: ether(ip(laptop6, private6, tcp(40000, 80, tcpSYN))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, in the middle", frame: ether(ip(laptop4, private4, tcp(40000, 80, tcpACK, 1, 2, 3))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, data with SYN and FIN", frame: ether(ip(laptop6, private6, tcp(40000, 80, tcpSYN|1, 1, 2, 3))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, in a padded frame", frame: ether(ip(laptop4, private4, tcp(40000, 80, tcpSYN), padded(6))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, in a padded frame, IPv6", frame: ether(ip(laptop6, private6, tcp(40000, 80, tcpSYN), padded(6))), reason: abi.ReasonPrivate, answer: reset},
		{name: "private, beyond, with options", frame: ether(ip(laptop4, private4, tcp(40000, 80, tcpSYN), options(1, 1, 1, 1))), reason: abi.ReasonPrivate, answer: reset},
		{name: "a reset is not reset", frame: ether(ip(laptop4, private4, tcp(40000, 80, 4))), reason: abi.ReasonPrivate},
		{name: "private, beyond, where local is reserved", frame: ether(ip(laptop4, private4, udp(40000, 80))), reason: abi.ReasonReservedOpen, home: openReserved},
		{name: "private, beyond, where local is none", frame: ether(ip(laptop4, private4, ping())), reason: abi.ReasonPrivate, answer: prohibited, home: noLocal},
	}
}

func exclusionRows() []row {
	return []row{
		{name: "to an excluded address", frame: ether(ip(laptop4, excluded4, udp(40000, 443))), reason: abi.ReasonDirectDestination},
		{name: "to an excluded address, IPv6", frame: ether(ip(laptop6, excluded6, ping6())), reason: abi.ReasonDirectDestination},
		{name: "to one carved out of it", frame: ether(ip(laptop4, carved4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTCP},
		{name: "to one carved out of it, IPv6", frame: ether(ip(laptop6, carved6, udp(40000, 443))), reason: abi.ReasonQUIC, answer: unreachable},
		{name: "from an excluded host", frame: ether(ip(console4, web4, udp(40000, 443))), reason: abi.ReasonDirectSource},
		{name: "from an excluded host, IPv6", frame: ether(ip(console6, web6, raw(protoGRE, 1, 2, 3, 4))), reason: abi.ReasonDirectSource},
		{name: "from one carved out of them", frame: ether(ip(phone4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonTCP},
		{name: "from a blocked host", frame: ether(ip(blocked4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonBlockedSource, answer: reset},
		{name: "from a blocked host, IPv6", frame: ether(ip(blocked6, excluded6, tcp(40000, 443, tcpSYN))), reason: abi.ReasonBlockedSource, answer: reset},
		{name: "from a blocked host with an exempt mark", frame: ether(ip(blocked4, web4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonBlockedSource, answer: reset, mark: exemptMark, home: lateMarks},
		{name: "with an exempt mark", frame: ether(ip(laptop4, web4, udp(40000, 443))), reason: abi.ReasonExemptMark, mark: exemptMark},
		{name: "with an exempt mark to a destination that a rule keeps", frame: ether(ip(laptop4, carved4, tcp(40000, 443, tcpSYN))), reason: abi.ReasonExemptMark, mark: exemptMark},
		{name: "with an exempt mark to a port that a rule keeps", frame: ether(ip(laptop4, web4, tcp(40000, 25, tcpSYN))), reason: abi.ReasonExemptMark, mark: exemptMark,
			home: services(service("25/tcp@0.0.0.0/0", abi.PolicyTor))},
		{name: "with an exempt mark among others", frame: ether(ip(laptop6, web6, ping6())), reason: abi.ReasonExemptMark, mark: exemptMark | 0x35},
		{name: "with a mark that is not exempt", frame: ether(ip(laptop4, web4, udp(40000, 443))), reason: abi.ReasonQUIC, answer: unreachable, mark: exemptMark | 0x100},
	}
}

func laterRows() []row {
	game := ether(ip(laptop4, web4, udp(27015, 40000, 'x')))
	return []row{
		{name: "reply of a server in the LAN", frame: game, reason: abi.ReasonInboundReply, home: visited(protoUDP, laptop4+":27015", web4+":40000")},
		{name: "reply of a server in the LAN, IPv6", frame: ether(ip(laptop6, web6, udp(27015, 40000))), reason: abi.ReasonInboundReply, home: visited(protoUDP, "["+laptop6+"]:27015", "["+web6+"]:40000")},
		{name: "reply of a blocked host", frame: ether(ip(blocked4, web4, udp(27015, 40000))), reason: abi.ReasonInboundReply, home: visited(protoUDP, blocked4+":27015", web4+":40000")},
		{name: "reply to a ping from outside", frame: ether(ip(laptop4, web4, icmp(protoICMP, 0, 77))), reason: abi.ReasonInboundReply, home: visited(protoICMP, laptop4+":77", web4+":77")},
		{name: "to another port of the visitor", frame: game, reason: abi.ReasonUDP, answer: unreachable, home: visited(protoUDP, laptop4+":27015", web4+":40001")},
		{name: "by another protocol to the visitor", frame: game, reason: abi.ReasonUDP, answer: unreachable, home: visited(protoTCP, laptop4+":27015", web4+":40000")},
		{name: "to another visitor", frame: game, reason: abi.ReasonUDP, answer: unreachable, home: visited(protoUDP, laptop4+":27015", "50.0.0.2:40000")},
		{name: "reply where none may pass", frame: game, reason: abi.ReasonUDP, answer: unreachable, home: visitedButOff},
		{name: "UDP where marks may come late", frame: game, reason: abi.ReasonLateMark, home: lateMarks},
		{name: "QUIC where marks may come late", frame: ether(ip(laptop6, web6, udp(40000, 443))), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "NTP where marks may come late", frame: ether(ip(laptop4, web4, udp(123, 123))), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "ping where marks may come late", frame: ether(ip(laptop4, web4, ping())), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "GRE where marks may come late", frame: ether(ip(laptop4, web4, raw(protoGRE, 1, 2, 3, 4))), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "private where marks may come late", frame: ether(ip(laptop4, private4, udp(40000, 80))), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "a fragment where marks may come late", frame: ether(ip(laptop4, web4, udp(40000, 80), fragment4(0, true))), reason: abi.ReasonLateMark, home: lateMarks},
		{name: "DNS in a fragment where marks may come late", frame: ether(ip(laptop4, web4, udp(40000, 53), fragment4(0, true))), reason: abi.ReasonFragment, answer: unreachable, home: lateMarks},
		{name: "a fragment to the router where marks may come late", frame: ether(ip(laptop4, router4, udp(40000, 80), fragment4(8, true))), reason: abi.ReasonFragment, home: lateMarks},
	}
}
