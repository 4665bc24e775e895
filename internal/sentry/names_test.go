package sentry

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func TestNamesHaveTheirAnswerer(t *testing.T) {
	n := names{
		lans:   []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("2a0d:50::/64")},
		onions: []netip.Prefix{netip.MustParsePrefix("10.192.0.0/10"), netip.MustParsePrefix("fd7a:6f6e::/32")},
	}
	reverse := func(a string) string {
		name, err := dns.ReverseAddr(a)
		must(t, err)
		return name
	}
	prefix := func(p string) zone { return zone{prefix: netip.MustParsePrefix(p)} }
	for _, c := range []struct {
		name string
		who  answerer
		zone zone
	}{
		{"www.example.com.", tor, zone{}},
		{"lan.example.com.", tor, zone{}},
		{"planlan.", ownRouter, zone{domain: "."}},
		{"x.planlan.", tor, zone{}},
		{".", tor, zone{}},
		{"expyuzz4wqqyqhjn.onion.", tor, zone{}},
		{"Printer.LAN.", ownRouter, zone{domain: "lan."}},
		{"printer.", ownRouter, zone{domain: "."}},
		{"lan.", ownRouter, zone{domain: "."}},
		{"a.b.home.arpa.", ownRouter, zone{domain: "home.arpa."}},
		{"tv.home.", ownRouter, zone{domain: "home."}},
		{"tv.local.", ownRouter, zone{domain: "local."}},
		{"db.internal.", ownRouter, zone{domain: "internal."}},
		{"x.localdomain.", ownRouter, zone{domain: "localdomain."}},
		{"localhost.", byHeart, zone{}},
		{"a.localhost.", byHeart, zone{}},
		{"use-application-dns.net.", nobody, zone{}},
		{"use-application-dns.org.", tor, zone{}},
		{"_dns.resolver.arpa.", nobody, zone{}},
		{reverse("192.168.1.7"), ownRouter, prefix("192.168.1.0/24")},
		{reverse("192.168.2.7"), ownRouter, prefix("192.168.0.0/16")},
		{reverse("172.31.255.255"), ownRouter, prefix("172.16.0.0/12")},
		{reverse("172.32.0.0"), tor, zone{}},
		{reverse("100.127.0.1"), ownRouter, prefix("100.64.0.0/10")},
		{reverse("51.20.0.80"), tor, zone{}},
		{reverse("10.1.2.3"), ownRouter, prefix("10.0.0.0/8")},
		{reverse("10.200.2.3"), tor, zone{}},
		{reverse("2a0d:50::11"), ownRouter, prefix("2a0d:50::/64")},
		{reverse("2a0d:51::11"), tor, zone{}},
		{reverse("fd99::1"), ownRouter, prefix("fc00::/7")},
		{reverse("fd7a:6f6e::1"), tor, zone{}},
		{reverse("fe80::1"), ownRouter, prefix("fe80::/10")},
		{reverse("::1"), ownRouter, prefix("::1/128")},
		{"d.f.ip6.arpa.", ownRouter, prefix("fc00::/7")},
		{"f.ip6.arpa.", tor, zone{}},
		{"lb._dns-sd._udp.0.1.168.192.in-addr.arpa.", ownRouter, prefix("192.168.1.0/24")},
		{"192.in-addr.arpa.", tor, zone{}},
		{"in-addr.arpa.", tor, zone{}},
		{"1.2.3.4.5.10.in-addr.arpa.", ownRouter, prefix("10.0.0.0/8")},
		{"in-addr.arpa.example.com.", tor, zone{}},
	} {
		if who, z := n.who(c.name); who != c.who || z != c.zone {
			t.Errorf("%s is for %d in %v, want %d in %v", c.name, who, z, c.who, c.zone)
		}
	}
}

func TestStrangersAreNamesOfTheirZone(t *testing.T) {
	for _, z := range []zone{
		{domain: "lan."}, {domain: "."}, {domain: "home.arpa."},
		{prefix: netip.MustParsePrefix("172.16.0.0/12")}, {prefix: netip.MustParsePrefix("fc00::/7")},
	} {
		first, second := z.stranger(dns.TypeA), z.stranger(dns.TypeA)
		if first.Name == second.Name {
			t.Errorf("%v: %s twice", z, first.Name)
		}
		if _, got := (names{}).who(first.Name); got != z {
			t.Errorf("%v: %s is in %v", z, first.Name, got)
		}
	}
}

// TestOnlyWhatAResolverKeepsIsAsked: dnsmasq asks its upstream for other types of
// names without a dot, and for whatever else there is in a reverse zone.
func TestOnlyWhatAResolverKeepsIsAsked(t *testing.T) {
	private4, private6 := zone{prefix: netip.MustParsePrefix("192.168.0.0/16")}, zone{prefix: netip.MustParsePrefix("fc00::/7")}
	full6, err := dns.ReverseAddr("fd50::11")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		zone  zone
		name  string
		qtype uint16
		asked bool
	}{
		{zone{domain: "."}, "printer.", dns.TypeA, true},
		{zone{domain: "."}, "printer.", dns.TypeAAAA, true},
		{zone{domain: "."}, "secret.", dns.TypeTXT, false},
		{zone{domain: "."}, "secret.", dns.TypePTR, false},
		{zone{domain: "lan."}, "printer.lan.", dns.TypeTXT, true},
		{private4, "7.50.168.192.in-addr.arpa.", dns.TypePTR, true},
		{private4, "7.50.168.192.IN-ADDR.arpa.", dns.TypePTR, true},
		{private4, "7.50.168.192.in-addr.arpa.", dns.TypeTXT, false},
		{private4, "50.168.192.in-addr.arpa.", dns.TypePTR, false},
		{private4, "secret.7.50.168.192.in-addr.arpa.", dns.TypePTR, false},
		{private4, "secret.168.192.in-addr.arpa.", dns.TypePTR, false},
		{private6, full6, dns.TypePTR, true},
		{private6, "a." + full6, dns.TypePTR, false},
		{private6, "d.f.ip6.arpa.", dns.TypePTR, false},
	} {
		if got := c.zone.mayAsk(dns.Question{Name: c.name, Qtype: c.qtype, Qclass: dns.ClassINET}); got != c.asked {
			t.Errorf("%s %s: asked is %t", c.name, dns.TypeToString[c.qtype], got)
		}
	}
}
