package model

import (
	"net/netip"
	"slices"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
)

// services says of the home what goes to some ports, and of some protocols.
func services(list ...ServicePolicy) func(*Policy) {
	return func(p *Policy) { p.Services = append(p.Services, list...) }
}

func service(match string, policy abi.Policy) ServicePolicy {
	s, prefix, err := config.ParsePort(match)
	if err != nil {
		panic(err) // the tests' own
	}
	return ServicePolicy{s, PrefixPolicy{Prefix: prefix, Policy: policy}}
}

// device says of the home what becomes of the sender of all test frames.
func device(policy abi.Policy, ended bool) func(*Policy) {
	return func(p *Policy) { p.Devices = map[config.MAC]DevicePolicy{hostMAC: {Policy: policy, Ended: ended}} }
}

// ended is a prefix whose time is over, and whether for a source or a destination.
func endedSource(prefix string, policy abi.Policy) func(*Policy) {
	return func(p *Policy) {
		p.Sources = append(p.Sources, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Policy: policy, Ended: true})
	}
}

func sources(policy abi.Policy, prefix string) func(*Policy) {
	return func(p *Policy) {
		p.Sources = append(p.Sources, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Policy: policy})
	}
}

// kept says of the home that a destination stays with Tor.
func kept(prefix string) func(*Policy) {
	return func(p *Policy) {
		p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix)})
	}
}

func endedDestinations(prefixes ...string) func(*Policy) {
	return func(p *Policy) {
		for _, prefix := range prefixes {
			p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Policy: abi.PolicyTor, Ended: true})
		}
	}
}

// ruleRow is a row whose refusals of UDP are told.
func ruleRow(name string, packet []byte, reason abi.Reason, home func(*Policy)) row {
	r := row{name: name, frame: ether(packet), reason: reason, home: home}
	if reason == abi.ReasonRouterDNS {
		r.frame = etherTo(groupMAC, hostMAC, packet)
	}
	switch reason {
	case abi.ReasonUDP, abi.ReasonQUIC, abi.ReasonBlockedDevice, abi.ReasonBlockedSource, abi.ReasonFragment, abi.ReasonOnionProtocol:
		r.answer = unreachable
	case abi.ReasonOnionFromDirect:
		r.answer = reset
	}
	return r
}

// quiet is a row whose sender is told nothing: an answer to a fragment needs the first.
func quiet(r row) row {
	r.answer = silence
	return r
}

// serviceRows: a rule for a port goes before those for destinations, and where it names
// the port of DNS before Tor's claim to that.
func serviceRows() []row {
	at := func(name string, packet []byte, reason abi.Reason, list ...ServicePolicy) row {
		return ruleRow("port: "+name, packet, reason, services(list...))
	}
	ssh := ip(laptop4, web4, tcp(40000, 22, tcpSYN))
	query := dnsQuery()
	return []row{
		at("TCP to anywhere", ssh, abi.ReasonDirectPort, service("22/tcp@0.0.0.0/0", abi.PolicyDirect)),
		at("TCP to anywhere, IPv6", ip(laptop6, web6, tcp(40000, 22, tcpSYN)), abi.ReasonDirectPort, service("22/tcp@::/0", abi.PolicyDirect)),
		at("to some destinations", ssh, abi.ReasonDirectPort, service("22/tcp@50.0.0.0/8", abi.PolicyDirect)),
		at("to others", ssh, abi.ReasonTCP, service("22/tcp@51.0.0.0/8", abi.PolicyDirect)),
		at("another port", ip(laptop4, web4, tcp(40000, 23, tcpSYN)), abi.ReasonTCP, service("22/tcp@0.0.0.0/0", abi.PolicyDirect)),
		at("the other protocol", ip(laptop4, web4, udp(40000, 22)), abi.ReasonUDP, service("22/tcp@0.0.0.0/0", abi.PolicyDirect)),
		at("from that port", ip(laptop4, web4, tcp(22, 40000, tcpSYN)), abi.ReasonTCP, service("22/tcp@0.0.0.0/0", abi.PolicyDirect)),
		at("carved out of an excluded destination", ip(laptop4, excluded4, tcp(40000, 25, tcpSYN)), abi.ReasonTCP, service("25/tcp@0.0.0.0/0", abi.PolicyTor)),
		at("the narrower of two", ip(laptop4, web4, tcp(40000, 22, tcpSYN)), abi.ReasonTCP,
			service("22/tcp@0.0.0.0/0", abi.PolicyDirect), service("22/tcp@50.0.0.0/24", abi.PolicyTor)),
		at("a fragment of a datagram shows none", ip(laptop4, web4, udp(40000, 7000), fragment4(0, true)), abi.ReasonFragment, service("7000/udp@0.0.0.0/0", abi.PolicyDirect)),
		at("a fragment to an excluded destination, where another port is Tor's", ip(laptop4, excluded4, udp(40000, 7000), fragment4(0, true)), abi.ReasonFragment, service("5060/udp@0.0.0.0/0", abi.PolicyTor)),
		quiet(at("a later one", ip(laptop4, excluded4, raw(protoUDP, make([]byte, 64)...), fragment4(9, false)), abi.ReasonFragment, service("5060/udp@0.0.0.0/0", abi.PolicyTor))),
		at("one of IPv6", ip(laptop6, excluded6, udp(40000, 5060), fragment6(0, true)), abi.ReasonFragment, service("5060/udp@::/0", abi.PolicyTor)),
		quiet(at("a later one behind options", ip(laptop6, excluded6, raw(extDestination, make([]byte, 64)...), fragment6(9, false)), abi.ReasonFragment, service("5060/udp@::/0", abi.PolicyTor))),
		at("one of GRE", ip(laptop4, excluded4, raw(protoGRE, make([]byte, 64)...), fragment4(9, false)), abi.ReasonDirectDestination, service("5060/udp@0.0.0.0/0", abi.PolicyTor)),
		at("one where a protocol is Tor's", ip(laptop4, excluded4, udp(40000, 7000), fragment4(0, true)), abi.ReasonDirectDestination, service("gre@0.0.0.0/0", abi.PolicyTor)),
		ruleRow("port: one to a list, where a port is Tor's", ip(laptop4, web4, udp(40000, 7000), fragment4(0, true)), abi.ReasonFragment,
			with(listed(false, "50.0.0.0/8"), services(service("5060/udp@51.0.0.0/8", abi.PolicyTor)))),
		ruleRow("port: one from an excluded source, where a port is Tor's", ip(console4, web4, udp(40000, 5060), fragment4(0, true)), abi.ReasonDirectSource, services(service("5060/udp@0.0.0.0/0", abi.PolicyTor))),
		at("QUIC", ip(laptop6, web6, udp(40000, 443)), abi.ReasonDirectPort, service("443/udp@2600::/16", abi.PolicyDirect)),
		at("ping", ip(laptop4, web4, ping()), abi.ReasonDirectPort, service("icmp@0.0.0.0/0", abi.PolicyDirect)),
		at("ping in fragments", ip(laptop4, web4, raw(protoICMP, 1, 2, 3), fragment4(9, false)), abi.ReasonDirectPort, service("icmp@0.0.0.0/0", abi.PolicyDirect)),
		at("GRE", ip(laptop4, web4, raw(protoGRE, make([]byte, 20)...)), abi.ReasonDirectPort, service("gre@50.0.0.0/8", abi.PolicyDirect)),
		at("DNS of a resolver that is named", ip(laptop4, vpn4, udp(40000, 53, query...)), abi.ReasonDirectPort, service("53/udp@10.8.0.0/24", abi.PolicyDirect)),
		at("DNS by TCP of one", ip(laptop4, vpn4, tcp(40000, 53, tcpSYN)), abi.ReasonDirectPort, service("53/tcp@10.8.0.0/24", abi.PolicyDirect)),
		at("DNS of the router's own resolver", ip(laptop4, router4, udp(40000, 53, query...)), abi.ReasonDNSUDP, service("53/udp@0.0.0.0/0", abi.PolicyDirect)),
		at("DNS by broadcast", ip(laptop4, subnet4, udp(40000, 53, query...)), abi.ReasonRouterDNS, service("53/udp@0.0.0.0/0", abi.PolicyDirect)),
		at("DNS by multicast", ip(laptop4, mdns4, udp(40000, 53, query...)), abi.ReasonRouterDNS, service("53/udp@0.0.0.0/0", abi.PolicyDirect)),
		at(".onion goes before", ip(laptop4, onion4, udp(40000, 443)), abi.ReasonOnionProtocol, service("443/udp@0.0.0.0/0", abi.PolicyDirect)),
		at("the router goes before", ip(laptop4, router4, tcp(40000, 22, tcpSYN)), abi.ReasonRouterAddress, service("22/tcp@0.0.0.0/0", abi.PolicyDirect)),
		at("a private address beyond the uplink", ip(laptop4, private4, tcp(40000, 22, tcpSYN)), abi.ReasonDirectPort, service("22/tcp@10.1.0.0/16", abi.PolicyDirect)),
	}
}

// deviceRows: who sends is told by its hardware address before its address.
func deviceRows() []row {
	at := func(name string, packet []byte, reason abi.Reason, home func(*Policy)) row {
		return ruleRow("device: "+name, packet, reason, home)
	}
	quic := ip(laptop4, web4, udp(40000, 443))
	return []row{
		at("direct", quic, abi.ReasonDirectDevice, device(abi.PolicyDirect, false)),
		at("direct, IPv6", ip(laptop6, web6, ping6()), abi.ReasonDirectDevice, device(abi.PolicyDirect, false)),
		at("direct, its DNS", ip(laptop4, router4, udp(40000, 53, dnsQuery()...)), abi.ReasonDirectDevice, device(abi.PolicyDirect, false)),
		at("direct, .onion", ip(laptop4, onion4, tcp(40000, 80, tcpSYN)), abi.ReasonOnionFromDirect, device(abi.PolicyDirect, false)),
		at("direct, with a source that no LAN has", ip(forged4, web4, udp(40000, 443)), abi.ReasonForeignSource, device(abi.PolicyDirect, false)),
		at("direct, with a blocked address", ip(blocked4, web4, udp(40000, 443)), abi.ReasonDirectDevice, device(abi.PolicyDirect, false)),
		at("blocked", quic, abi.ReasonBlockedDevice, device(abi.PolicyBlock, false)),
		at("blocked, to a neighbour", ip(laptop4, printer4, udp(40000, 9100)), abi.ReasonBlockedDevice, device(abi.PolicyBlock, false)),
		at("blocked, with an excluded address", ip(console4, web4, udp(40000, 443)), abi.ReasonBlockedDevice, device(abi.PolicyBlock, false)),
		at("blocked, where marks may come late", quic, abi.ReasonBlockedDevice, func(p *Policy) {
			device(abi.PolicyBlock, false)(p)
			lateMarks(p)
		}),
		at("Tor's, with an excluded address", ip(console4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, device(abi.PolicyTor, false)),
		at("blocked until now", quic, abi.ReasonQUIC, device(abi.PolicyBlock, true)),
		at("direct until now, with an excluded address", ip(console4, web4, udp(40000, 443)), abi.ReasonDirectSource, device(abi.PolicyTor, true)),
	}
}

// named excludes names, and has the sender of all test frames told of some.
func named(p *Policy) {
	p.Domains = []string{"bank.example", "*.shop.example"}
	p.Answers = map[Answer]string{
		{hostMAC, netip.MustParseAddr(web4)}: "bank.example", {hostMAC, netip.MustParseAddr(web6)}: "*.shop.example",
		{hostMAC, netip.MustParseAddr("50.0.0.2")}: "gone.example", {config.MAC{2, 9}, netip.MustParseAddr("50.0.0.3")}: "bank.example",
		{hostMAC, netip.MustParseAddr(onion4)}: "bank.example", {hostMAC, netip.MustParseAddr(router4)}: "bank.example",
	}
	begun := func(device config.MAC, port string) NameFlow {
		return NameFlow{device, InboundFlow{protoTCP, netip.MustParseAddrPort(laptop4 + port), netip.MustParseAddrPort("50.0.0.4:443")}}
	}
	p.NameFlows = map[NameFlow]string{
		begun(hostMAC, ":40000"): "bank.example", begun(hostMAC, ":40001"): "gone.example", begun(config.MAC{2, 9}, ":40003"): "bank.example",
	}
}

func namedTorDown(p *Policy) {
	named(p)
	p.GateOpen = false
}

// domainRows: what a device was told for an excluded name is direct for it alone.
func domainRows() []row {
	at := func(name string, packet []byte, reason abi.Reason) row {
		return ruleRow("domain: "+name, packet, reason, named)
	}
	asks := func(name, asked string, qtype uint16, reason abi.Reason) row {
		r := at("a question for "+name, ip(laptop4, router4, udp(40000, 53, dnsAsk(asked, qtype)...)), reason)
		if reason == abi.ReasonDNSNoData {
			r.answer = noData
		}
		return r
	}
	down := ruleRow("domain: a question while Tor is down", ip(laptop4, router4, udp(40000, 53, dnsAsk("bank.example", 1)...)), abi.ReasonDNSDomain, namedTorDown)
	return []row{
		down,
		ruleRow("domain: a question by TCP while Tor is down", ip(laptop4, router4, tcp(40000, 53, tcpSYN)), abi.ReasonDNSTCP, namedTorDown),
		{name: "domain: another name while Tor is down", frame: ether(ip(laptop4, router4, udp(40000, 53, dnsQuery()...))), reason: abi.ReasonTorNotReady, answer: servfail, home: namedTorDown},
		{name: "domain: TCP while Tor is down", frame: ether(ip(laptop4, "50.0.0.9", tcp(40000, 443, tcpSYN))), reason: abi.ReasonTorNotReady, answer: reset, home: namedTorDown},
		at("TCP", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonDirectDomain),
		at("UDP, IPv6", ip(laptop6, web6, udp(40000, 443)), abi.ReasonDirectDomain),
		at("ping", ip(laptop4, web4, ping()), abi.ReasonDirectDomain),
		at("a fragment", ip(laptop4, web4, udp(40000, 7000), fragment4(0, true)), abi.ReasonFragment),
		at("DNS stays Tor's", ip(laptop4, web4, udp(40000, 53, dnsQuery()...)), abi.ReasonDNSUDP),
		at("an address of a name that is excluded no more", ip(laptop4, "50.0.0.2", tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		at("an address that another device was told", ip(laptop4, "50.0.0.3", tcp(40000, 443, tcpSYN)), abi.ReasonTCP),
		at("a blocked source", ip(blocked4, web4, udp(40000, 443)), abi.ReasonBlockedSource),
		at(".onion goes before", ip(laptop4, onion4, tcp(40000, 443, tcpSYN)), abi.ReasonOnionTCP),
		at("the router goes before", ip(laptop4, router4, tcp(40000, 22, tcpSYN)), abi.ReasonRouterAddress),
		at("a flow that has begun by it", ip(laptop4, "50.0.0.4", tcp(40000, 443, tcpACK)), abi.ReasonDirectDomain),
		at("another flow to there", ip(laptop4, "50.0.0.4", tcp(40002, 443, tcpSYN)), abi.ReasonTCP),
		at("a flow that another device has begun in its name", ip(laptop4, "50.0.0.4", tcp(40003, 443, tcpACK)), abi.ReasonTCP),
		at("a flow by a name that is excluded no more", ip(laptop4, "50.0.0.4", tcp(40001, 443, tcpACK)), abi.ReasonTCP),
		ruleRow("domain: a destination that a rule keeps", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, with(named, kept("50.0.0.0/24"))),
		ruleRow("domain: a destination that a rule keeps, UDP", ip(laptop6, web6, udp(40000, 443)), abi.ReasonQUIC, with(named, kept("2600::/16"))),
		ruleRow("domain: a port that a rule keeps", ip(laptop4, web4, tcp(40000, 25, tcpSYN)), abi.ReasonTCP, with(named, services(service("25/tcp@0.0.0.0/0", abi.PolicyTor)))),
		ruleRow("domain: another port than the one that is kept", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonDirectDomain, with(named, services(service("25/tcp@0.0.0.0/0", abi.PolicyTor)))),
		ruleRow("domain: a flow that has begun to a destination that a rule keeps since", ip(laptop4, "50.0.0.4", tcp(40000, 443, tcpACK)), abi.ReasonTCP, with(named, kept("50.0.0.4/32"))),
		ruleRow("domain: a destination that was kept", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonDirectDomain, with(named, endedDestinations("50.0.0.0/24"))),
		asks("it", "bank.example", 1, abi.ReasonDNSDomain),
		asks("it in capitals", "BANK.Example", 28, abi.ReasonDNSDomain),
		asks("any type of it", "bank.example", 16, abi.ReasonDNSDomain),
		asks("what has never data", "bank.example", 65, abi.ReasonDNSNoData),
		asks("what is below it", "www.bank.example", 1, abi.ReasonDNSUDP),
		asks("what is below a name", "a.b.shop.example", 1, abi.ReasonDNSDomain),
		asks("that name itself", "shop.example", 1, abi.ReasonDNSUDP),
		asks("one that ends like it", "notbank.example", 1, abi.ReasonDNSUDP),
		asks("one that begins like it", "bank.example.com", 1, abi.ReasonDNSUDP),
		asks("a local name", "bank.lan", 1, abi.ReasonDNSLocal),
	}
}

// prefixList is a list of destinations, of which some have ended.
type prefixList []PrefixPolicy

// Has says whether any that has not ended has an address.
func (l prefixList) Has(a netip.Addr) bool {
	return slices.ContainsFunc(l, func(e PrefixPolicy) bool { return !e.Ended && e.Prefix.Contains(a) })
}

// listOf returns what the list of a test's policy holds.
func listOf(p *Policy) prefixList {
	list, _ := p.Lists.(prefixList)
	return list
}

// listed says of the home that a list excludes these prefixes.
func listed(ended bool, prefixes ...string) func(*Policy) {
	return func(p *Policy) {
		var list prefixList
		for _, prefix := range prefixes {
			list = append(list, PrefixPolicy{Prefix: netip.MustParsePrefix(prefix), Ended: ended})
		}
		p.Lists = list
	}
}

// listRows: any rule about a destination goes before a list.
func listRows() []row {
	at := func(name string, packet []byte, reason abi.Reason, home func(*Policy)) row {
		return ruleRow("list: "+name, packet, reason, home)
	}
	here := listed(false, "50.0.0.0/8", "2600::/16", "10.0.0.0/8")
	with := func(also func(*Policy)) func(*Policy) { return with(here, also) }
	return []row{
		at("in it", ip(laptop4, web4, udp(40000, 443)), abi.ReasonDirectList, here),
		at("in it, IPv6", ip(laptop6, web6, ping6()), abi.ReasonDirectList, here),
		at("beside it", ip(laptop4, "49.255.255.255", udp(40000, 443)), abi.ReasonQUIC, here),
		at("an address", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonDirectList, listed(false, web4+"/32")),
		at("beside an address", ip(laptop4, "50.0.0.2", tcp(40000, 443, tcpSYN)), abi.ReasonTCP, listed(false, web4+"/32")),
		at("that has ended", ip(laptop4, web4, udp(40000, 443)), abi.ReasonQUIC, listed(true, "50.0.0.0/8")),
		at("carved out by a rule", ip(laptop4, carved4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, here),
		at("carved out by a rule, IPv6", ip(laptop6, carved6, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, here),
		at("carved out by a wider rule", ip(laptop4, web4, tcp(40000, 443, tcpSYN)), abi.ReasonTCP, with(func(p *Policy) {
			p.Destinations = append(p.Destinations, PrefixPolicy{Prefix: netip.MustParsePrefix("50.0.0.0/7")})
		})),
		at("where such a rule has ended", ip(laptop4, web4, udp(40000, 443)), abi.ReasonDirectList, with(endedDestinations("50.0.0.0/24"))),
		at("carved out by a port", ip(laptop4, web4, tcp(40000, 25, tcpSYN)), abi.ReasonTCP, with(services(service("25/tcp@0.0.0.0/0", abi.PolicyTor)))),
		at("excluded by a rule as well", ip(laptop4, excluded4, udp(40000, 443)), abi.ReasonDirectDestination, here),
		at("its DNS", ip(laptop4, web4, udp(40000, 53, dnsQuery()...)), abi.ReasonDNSUDP, here),
		at(".onion in it", ip(laptop4, onion4, udp(40000, 443)), abi.ReasonOnionProtocol, here),
		at("the router in it", ip(laptop4, wan4, tcp(40000, 22, tcpSYN)), abi.ReasonRouterAddress, here),
		at("private space in it", ip(laptop4, private4, udp(40000, 443)), abi.ReasonDirectList, here),
		at("a blocked source", ip(blocked4, web4, udp(40000, 443)), abi.ReasonBlockedSource, here),
		at("a fragment", ip(laptop4, web4, udp(40000, 7000), fragment4(0, true)), abi.ReasonDirectList, here),
	}
}

// endedRows: what has ended is as good as not there, and hides nothing.
func endedRows() []row {
	at := func(name string, packet []byte, reason abi.Reason, home func(*Policy)) row {
		return ruleRow("ended: "+name, packet, reason, home)
	}
	game := udp(40000, 27015)
	return []row{
		at("a source", ip(laptop4, web4, game), abi.ReasonUDP, endedSource("192.168.1.10/32", abi.PolicyDirect)),
		at("a block within an excluded range", ip("192.168.1.70", web4, game), abi.ReasonDirectSource, endedSource("192.168.1.70/32", abi.PolicyBlock)),
		at("a destination within an excluded one", ip(laptop4, excluded4, game), abi.ReasonDirectDestination, endedDestinations("50.1.0.0/24")),
		at("four of them", ip(laptop4, excluded4, game), abi.ReasonUDP, endedDestinations("50.1.0.0/20", "50.1.0.0/24", "50.1.0.0/28", "50.1.0.0/30")),
		at("four of them and a list", ip(laptop4, excluded4, game), abi.ReasonUDP, with(
			listed(false, "50.0.0.0/8"), endedDestinations("50.1.0.0/20", "50.1.0.0/24", "50.1.0.0/28", "50.1.0.0/30"))),
		at("four of them and no other, and a list", ip(laptop4, web4, game), abi.ReasonDirectList, with(
			listed(false, "50.0.0.0/8"), endedDestinations("50.0.0.0/20", "50.0.0.0/24", "50.0.0.0/28", "50.0.0.0/30"))),
		at("four of them for every address, and a list", ip(laptop6, web6, game), abi.ReasonDirectList, with(
			listed(false, "2600::/16"), endedDestinations("::/0", "2600::/24", "2600::/28", "2600::/30"))),
		at("four of a port, in an excluded destination", ip(laptop4, excluded4, game), abi.ReasonUDP, func(p *Policy) {
			for _, prefix := range []string{"50.1.0.0/24", "50.1.0.0/20", "50.1.0.0/16", "50.0.0.0/8"} {
				s := service("27015/udp@"+prefix, abi.PolicyDirect)
				s.Ended = true
				services(s)(p)
			}
			services(service("27015/udp@0.0.0.0/0", abi.PolicyTor))(p)
		}),
		at("four of an excluded source that is blocked within", ip("192.168.1.70", web4, game), abi.ReasonBlockedSource, with(
			sources(abi.PolicyBlock, "192.168.1.64/27"), endedSource("192.168.1.64/28", abi.PolicyDirect), endedSource("192.168.1.68/30", abi.PolicyDirect),
			endedSource("192.168.1.70/31", abi.PolicyDirect), endedSource("192.168.1.70/32", abi.PolicyDirect))),
		at("four of a source that is none's otherwise", ip(laptop4, web4, game), abi.ReasonUDP, with(
			endedSource("192.168.1.0/27", abi.PolicyDirect), endedSource("192.168.1.8/29", abi.PolicyDirect),
			endedSource("192.168.1.10/31", abi.PolicyDirect), endedSource("192.168.1.10/32", abi.PolicyDirect))),
		at("three of them", ip(laptop4, excluded4, game), abi.ReasonDirectDestination, endedDestinations("50.1.0.0/24", "50.1.0.0/28", "50.1.0.0/30")),
		at("a destination within a carved one", ip(laptop4, carved4, game), abi.ReasonUDP, endedDestinations("50.1.2.0/28")),
		at("one for every address", ip(laptop4, web4, game), abi.ReasonUDP, endedDestinations("0.0.0.0/0")),
		at("a port", ip(laptop4, web4, game), abi.ReasonUDP, func(p *Policy) {
			s := service("27015/udp@0.0.0.0/0", abi.PolicyDirect)
			s.Ended = true
			services(s)(p)
		}),
		at("a port within another", ip(laptop4, web4, game), abi.ReasonDirectPort, func(p *Policy) {
			s := service("27015/udp@50.0.0.0/24", abi.PolicyTor)
			s.Ended = true
			services(s, service("27015/udp@50.0.0.0/8", abi.PolicyDirect))(p)
		}),
	}
}
