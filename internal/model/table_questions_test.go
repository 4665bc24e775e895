package model

import (
	"strings"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/internal/abi"
)

// noDataRows: types that have no data through Tor, answered by the program.
func noDataRows() []row {
	https, svcb := dnsAsk("wWw.Example.Test", dns.TypeHTTPS), dnsAsk("_dns.resolver.arpa", dns.TypeSVCB)
	plain := func(payload []byte, parts ...part) []byte {
		return ether(ip(laptop4, web4, udp(40000, 53, payload...), parts...))
	}
	unsummed := ether(ip(laptop4, web4, segment{protoUDP, udp(40000, 53, https...).bytes, -1}))
	long := dnsAsk(strings.Repeat(strings.Repeat("x", 62)+".", 3)+strings.Repeat("y", 61), dns.TypeHTTPS)
	return []row{
		{name: "HTTPS", frame: plain(https), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 53, https...))), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "SVCB to the router", frame: ether(ip(laptop4, router4, udp(40000, 53, svcb...))), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "SVCB to the router's link-local address", frame: ether(ip("fe80::a", link6, udp(40000, 53, svcb...))), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS to .onion", frame: ether(ip(laptop4, onion4, udp(40000, 53, https...))), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS without EDNS", frame: plain(changed(dnsAsk("a.test", dns.TypeHTTPS)[:24], 11, 0)), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS with IP options", frame: plain(https, options(1, 1, 1, 1)), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS behind options, IPv6", frame: ether(ip(laptop6, web6, udp(40000, 53, https...), ext(extDestination, 0))), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS in a padded frame", frame: plain(https, padded(6)), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS without a checksum", frame: unsummed, reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS for the longest name", frame: plain(long), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS for the root", frame: plain(dnsAsk(".", dns.TypeHTTPS)), reason: abi.ReasonDNSNoData, answer: noData},
		{name: "HTTPS with a visitor from port 53", frame: plain(https), reason: abi.ReasonDNSNoData, answer: noData, home: visited(protoUDP, laptop4+":40000", web4+":53")},
		{name: "HTTPS from an excluded host", frame: ether(ip(console4, web4, udp(40000, 53, https...))), reason: abi.ReasonDirectSource},
		{name: "HTTPS from nobody", frame: ether(ip("0.0.0.0", web4, udp(40000, 53, https...))), reason: abi.ReasonDNSNoData},
		{name: "HTTPS behind a priority tag", frame: ether(ip(laptop4, web4, udp(40000, 53, https...)), 0x8100_0000), reason: abi.ReasonDNSNoData},
		{name: "Tor down, HTTPS", frame: plain(https), reason: abi.ReasonTorNotReady, answer: servfail, home: torDown},
	}
}

// unreadRows: what cannot be read for sure is DNSPort's to answer.
func unreadRows() []row {
	https := func() []byte { return dnsAsk("www.example.test", dns.TypeHTTPS) }
	to := func(payload []byte) []byte { return ether(ip(laptop4, web4, udp(40000, 53, payload...))) }
	lying := udp(40000, 53, https()...)
	lying.bytes[5]--
	lying.bytes = lying.bytes[:len(lying.bytes)-10]
	deep := strings.Repeat("a.", 40) + "lan"
	big := append(https(), make([]byte, 512)...)
	return []row{
		{name: "an answer of type HTTPS", frame: to(changed(https(), 2, 0x81)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS by NOTIFY", frame: to(changed(https(), 2, 0x21)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS and another question", frame: to(changed(https(), 5, 2)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS for a compressed name", frame: to(changed(https(), 12, 0xc0)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS of class CH", frame: to(changed(https(), 33, 3)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS, of which UDP states more than there is", frame: to(https()[:20]), reason: abi.ReasonDNSUDP},
		{name: "HTTPS that ends in its class", frame: to(https()[:33]), reason: abi.ReasonDNSUDP},
		{name: "HTTPS that is cut off", frame: ether(ip(laptop4, web4, lying)), reason: abi.ReasonDNSUDP},
		{name: "HTTPS in more bytes than a query has", frame: to(big), reason: abi.ReasonDNSUDP},
		{name: "a local name of more labels than there are", frame: to(dnsAsk(deep, dns.TypeA)), reason: abi.ReasonDNSUDP},
		{name: "no DNS", frame: to([]byte("GET / HTTP/1.1")), reason: abi.ReasonDNSUDP},
	}
}

// localNameRows: by the name alone, whatever is asked of it.
func localNameRows() []row {
	var out []row
	add := func(reason abi.Reason, qtype uint16, names ...string) {
		for _, name := range names {
			query := udp(40000, 53, dnsAsk(name, qtype)...)
			out = append(out,
				row{name: "the name " + name, frame: ether(ip(laptop4, web4, query)), reason: reason},
				row{name: "the name " + name + ", IPv6", frame: ether(ip(laptop6, router6, query)), reason: reason})
		}
	}
	add(abi.ReasonDNSLocal, dns.TypeA,
		"printer.lan", "PRINTER.LaN", "a.b.c.home", "tv.local", "db.internal", "x.localdomain", "localhost", "a.localhost",
		"printer", "x.home.arpa", "resolver.arpa", "use-application-dns.net", "Mask.iCloud.com", "mask-h2.icloud.com")
	add(abi.ReasonDNSLocal, dns.TypeTXT, "printer.lan", "printer")
	add(abi.ReasonDNSLocal, dns.TypePTR,
		"10.1.168.192.in-addr.arpa", "1.0.0.10.IN-ADDR.ARPA", "9.31.172.in-addr.arpa", "lb._dns-sd._udp.0.1.168.192.in-addr.arpa",
		"5.0.254.169.in-addr.arpa", "1.127.100.in-addr.arpa", "5.0.0.10.in-addr.arpa", arpa(laptop6), arpa("fe80::1"), arpa("fdff::"),
		"d.f.ip6.arpa", "1.0.8.in-addr.arpa", arpa(peer6), "lb._dns-sd._udp."+arpa(peer6)[32:])
	add(abi.ReasonDNSUDP, dns.TypePTR,
		arpa(web4), arpa(web6), "1.32.172.in-addr.arpa", "1.1.169.192.in-addr.arpa", "1.128.100.in-addr.arpa", arpa("2600:1:86dd::"))
	add(abi.ReasonDNSUDP, dns.TypeA,
		".", "www.example.test", "lan.example.test", "xlan.test", "plan.la", "x.lans", "x.localdomains", "x.localhosts", "x.internals", "x.homes",
		"arpa.net", "x.arpas", "use-application-dns.com.x", "mast.icloud.com", "mask.icloud.co", "expyuzz4wqqyqhjn.onion")
	query := udp(40000, 53, dnsAsk("printer.lan", dns.TypeA)...)
	return append(out,
		row{name: "a local name, asked of .onion", frame: ether(ip(laptop4, onion4, query)), reason: abi.ReasonDNSLocal},
		row{name: "a local name, from an excluded host", frame: ether(ip(console4, router4, query)), reason: abi.ReasonDirectSource},
		row{name: "Tor down, a local name", frame: ether(ip(laptop4, router4, query)), reason: abi.ReasonDNSLocal, home: torDown})
}

// arpa is the name of an address.
func arpa(a string) string {
	name, err := dns.ReverseAddr(a)
	if err != nil {
		panic(err)
	}
	return strings.TrimSuffix(name, ".")
}
