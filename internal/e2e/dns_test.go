package e2e

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/testnet"
)

// prompt is within what time a query is answered that nobody is asked for.
const prompt = 100 * time.Millisecond

// resolvers are whom a device may ask: the router in all its guises, the ISP's
// resolver, a public one, and private ones that are not there.
func resolvers() []netip.AddrPort {
	var out []netip.AddrPort
	for _, addr := range []netip.Addr{
		testnet.LANRouter4, testnet.LANRouter6, testnet.LANRouterULA, testnet.WANRouter4,
		testnet.Resolver4, testnet.Resolver6, testnet.PublicResolver4, testnet.PublicResolver6,
		netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd99::53"),
	} {
		out = append(out, at(addr, testnet.PortDNS))
	}
	return out
}

// answers is what a reply says, in a line.
func answers(reply *dns.Msg) string {
	out := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(out, " ")
}

// dnsCase is a question and its answer, whoever is asked, by whatever transport.
type dnsCase struct{ name, qtype, want string }

// everywhere asks every resolver by UDP and TCP. Only the quickest of a few tries
// counts as the time it takes: the machine is busy with a whole Tor network.
func everywhere(t *testing.T, n *testnet.Node, cases []dnsCase, within time.Duration) {
	t.Helper()
	for _, c := range cases {
		for _, server := range resolvers() {
			for _, proto := range []string{"udp", "tcp"} {
				quickest := time.Hour
				for range 5 {
					begin := time.Now()
					reply, err := testnet.DNSQuery(n, server, c.name, c.qtype, proto, patience)
					if err != nil {
						t.Errorf("%s of %s from %s: %v", c.qtype, c.name, n.Name, err)
						break
					}
					if got := answers(reply); got != c.want {
						t.Errorf("%s of %s from %s by %s at %v: got %s, want %s", c.qtype, c.name, n.Name, proto, server, got, c.want)
					}
					quickest = min(quickest, time.Since(begin))
					if quickest <= within {
						break
					}
				}
				if quickest > within {
					t.Errorf("%s of %s from %s by %s at %v took %v", c.qtype, c.name, n.Name, proto, server, quickest)
				}
			}
		}
	}
}

// TestDNSOfEveryKindToWhomever: what Tor knows is answered through it, what it does
// not know at once.
func TestDNSOfEveryKindToWhomever(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	capture := captureWAN(t, lab)
	name := "kinds." + testnet.Zone
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		inParallel(t, lookups(n))
		everywhere(t, n, []dnsCase{
			{name, "TXT", "NOTIMP"}, {name, "MX", "NOTIMP"}, {"_echo._tcp." + testnet.Zone, "SRV", "NOTIMP"}, {testnet.Zone, "SOA", "NOTIMP"},
			{name, "HTTPS", "NOERROR"}, {name, "SVCB", "NOERROR"}, {"_dns.resolver.arpa", "SVCB", "NOERROR"},
			{"use-application-dns.net", "A", "NXDOMAIN"}, {"mask.icloud.com", "A", "NXDOMAIN"}, {"mask-h2.icloud.com", "AAAA", "NXDOMAIN"},
			{"localhost", "A", "NOERROR 127.0.0.1"}, {"localhost", "AAAA", "NOERROR ::1"},
		}, prompt)
	}
	checkServersSawExitsOnlyIfAny(t, lab)
	checkNoLeaks(t, capture)
}

// localCases are names that the router's resolver knows, or keeps and does not know.
func localCases(n *testnet.Node) []dnsCase {
	return []dnsCase{
		{n.Name + "." + testnet.LocalZone, "A", "NOERROR " + n.IPv4.String()},
		{strings.ToUpper(n.Name) + ".lan", "A", "NOERROR " + n.IPv4.String()},
		{n.Name + "." + testnet.LocalZone, "AAAA", "NOERROR"},
		{reverse(n.IPv4), "PTR", "NOERROR " + n.Name + ".lan."},
		{"secret." + testnet.LocalZone, "A", "NXDOMAIN"},
		{"secret", "A", "NXDOMAIN"},
		{reverse(netip.MustParseAddr("10.9.9.9")), "PTR", "NXDOMAIN"},
		{reverse(n.ULA), "PTR", "NXDOMAIN"},
	}
}

// TestLocalNamesStayLocal: the router's resolver answers them, where it does not ask
// others; no exit hears of them, nor anyone on the WAN.
func TestLocalNamesStayLocal(t *testing.T) {
	lab := torLab(t)
	attach(t, lab, lan)
	capture := captureWAN(t, lab)
	for _, n := range []*testnet.Node{lab.Client1, lab.Client2} {
		everywhere(t, n, localCases(n), patience)
	}
	for _, q := range lab.RouterDNS.Queries() {
		if !q.Source.Addr().IsLoopback() {
			t.Errorf("the router's resolver was asked for %s by %v", q.Name, q.Source)
		}
	}
	if len(lab.RouterDNS.QueriesFor("secret."+testnet.LocalZone)) == 0 {
		t.Error("the router's resolver was not asked")
	}
	if seen := lab.DNS.Queries(); len(seen) > 0 {
		t.Errorf("the ISP's resolver was asked %v", seen)
	}
	checkNoLeaks(t, capture)
}

// TestCarelessResolverHearsOfNoLocalName: one that asks the ISP's for all that it
// does not know is asked for names made up at random, once for each zone.
func TestCarelessResolverHearsOfNoLocalName(t *testing.T) {
	lab := torLab(t)
	lab.ForwardEverything(true)
	t.Cleanup(func() { lab.ForwardEverything(false) })
	attach(t, lab, lan)
	capture := captureWAN(t, lab)
	n := lab.Client1
	names := []dnsCase{
		{"secret.lan", "A", "NXDOMAIN"}, {n.Name + ".lan", "A", "NXDOMAIN"}, {"secret", "A", "NXDOMAIN"}, {"secret.home.arpa", "TXT", "NXDOMAIN"},
		{"secret.local", "A", "NXDOMAIN"}, {"secret.internal", "AAAA", "NXDOMAIN"}, {"secret.localdomain", "A", "NXDOMAIN"}, {"secret.home", "A", "NXDOMAIN"},
		{reverse(n.IPv4), "PTR", "NXDOMAIN"}, {reverse(n.IPv6), "PTR", "NXDOMAIN"}, {reverse(n.ULA), "PTR", "NXDOMAIN"},
		{reverse(netip.MustParseAddr("10.9.9.9")), "PTR", "NXDOMAIN"}, {reverse(netip.MustParseAddr("fe80::9")), "PTR", "NXDOMAIN"},
	}
	everywhere(t, n, names, patience)
	if err := lookup(n, n.Resolver, "public."+testnet.Zone, "A", "udp", testnet.Web4.String()); err != nil {
		t.Error(err)
	}
	strangers := 0
	for _, q := range lab.DNS.Queries() {
		if lab.Tor.IsExit(q.Source.Addr()) {
			if !strings.HasSuffix(strings.ToLower(q.Name), testnet.Zone) {
				t.Errorf("an exit asked for %s", q.Name)
			}
			continue
		}
		strangers++
		if slices.ContainsFunc(names, func(c dnsCase) bool { return strings.EqualFold(dns.Fqdn(c.name), dns.Fqdn(q.Name)) }) {
			t.Errorf("the router's resolver asked the ISP's for %s", q.Name)
		}
	}
	if strangers == 0 || strangers > len(names) {
		t.Errorf("the router's resolver asked the ISP's %d times", strangers)
	}
	if err := capture.Stop(); err != nil {
		t.Error(err)
	}
	for _, p := range capture.NonTor() {
		if p.Src.Addr() != testnet.WANRouter4 || p.Dst != at(testnet.Resolver4, testnet.PortDNS) {
			t.Errorf("on the WAN: %v", p)
		}
	}
}

// TestLocalNamesNeedNoTor: while nothing begins through Tor.
func TestLocalNamesNeedNoTor(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	n := lab.Client1
	for _, c := range append(localCases(n), dnsCase{"www." + testnet.Zone, "A", "SERVFAIL"}, dnsCase{"www." + testnet.Zone, "HTTPS", "SERVFAIL"}) {
		reply, err := testnet.DNSQuery(n, n.Resolver, c.name, c.qtype, "udp", patience)
		if err != nil {
			t.Error(err)
		} else if got := answers(reply); got != c.want {
			t.Errorf("%s of %s: got %s, want %s", c.qtype, c.name, got, c.want)
		}
	}
}

// TestDNSOverTLSGoesThroughTor: to a resolver of the device's own, as TCP.
func TestDNSOverTLSGoesThroughTor(t *testing.T) {
	const portDNSTLS = 853
	lab := torLab(t)
	attach(t, lab, lan)
	capture := captureWAN(t, lab)
	for _, server := range []netip.Addr{testnet.PublicResolver4, testnet.PublicResolver6} {
		seen := make(chan netip.Addr, 1)
		serve(t, lab, at(server, portDNSTLS), func(conn net.Conn) {
			seen <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			conn.Close()
		})
		conn, err := lab.Client1.Dial(t.Context(), "tcp", at(server, portDNSTLS).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		select {
		case source := <-seen:
			if !lab.Tor.IsExit(source) {
				t.Errorf("%v was reached from %v", server, source)
			}
		case <-time.After(torPatience):
			t.Errorf("%v was not reached", server)
		}
	}
	checkNoLeaks(t, capture)
}
