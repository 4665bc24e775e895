package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/torbpf/torbpf/testnet"
)

// TestMainJob is what torbpf is for: every device is on Tor, whatever it asks
// for, and nothing else of theirs is seen outside.
func TestMainJob(t *testing.T) {
	lab := torLab(t)
	capture := captureWAN(t, lab)
	begin := time.Now()
	r := attach(t, lab, lan, lan2)
	t.Logf("attach took %v\n%v", time.Since(begin).Round(time.Millisecond), r)

	clients := []*testnet.Node{lab.Client1, lab.Client2}
	var checks []func() error
	for _, n := range clients {
		checks = append(checks, fetches(lab, n)...)
		checks = append(checks, lookups(n)...)
	}
	inParallel(t, append(checks, func() error {
		for _, n := range clients {
			sendStrays(t, n)
		}
		return nil
	}))
	for _, n := range clients {
		checkOnionV6(t, lab, n)
	}
	checkServersSawExitsOnly(t, lab)
	t.Logf("status: %v", mustTorbpf(t, lab, "status"))
	packets := len(capture.Packets())
	checkNoLeaks(t, capture)
	t.Logf("%d packets on the WAN", packets)

	// The same without torbpf, or all this proves nothing: in a lab of its own,
	// where what it starts meets no other test's capture.
	checkStraysAreSeenWithoutTorbpf(t, plainLab(t, testnet.Options{}))
}

// fetches are the pages that a device opens, and who the server must have seen.
func fetches(lab *testnet.Lab, n *testnet.Node) []func() error {
	exit4 := func(a netip.Addr) bool { return a.Is4() && lab.Tor.IsExit(a) }
	exit6 := func(a netip.Addr) bool { return a.Is6() && lab.Tor.IsExit(a) }
	onion := func(a netip.Addr) bool { return a == lab.Tor.OnionSource }
	var out []func() error
	for _, f := range []struct {
		url  string
		want func(netip.Addr) bool
	}{
		{"http://51.20.0.80/", exit4},
		{"https://51.21.0.80/", exit4},
		{"http://[2a0e:20::80]/", exit6},
		{"https://[2a0e:21::80]/", exit6},
		{"http://" + n.Name + ".example.test/", lab.Tor.IsExit},
		{"https://" + n.Name + ".example.test/", lab.Tor.IsExit},
		{"http://v6only.example.test/", exit6},
		{"http://" + lab.Tor.Onion + "/", onion},
	} {
		out = append(out, func() error { return fetch(n, f.url, f.want) })
	}
	return append(out,
		func() error { return testnet.Echo(n, "tcp", at(testnet.Web4, testnet.PortEcho), torPatience) },
		func() error { return testnet.Echo(n, "tcp", at(testnet.Other6, testnet.PortEcho), torPatience) })
}

// fetch opens a page and checks the address that the server saw.
func fetch(n *testnet.Node, url string, want func(netip.Addr) bool) error {
	body, err := testnet.HTTPGet(n, url, torPatience)
	if err != nil {
		return err
	}
	source, err := netip.ParseAddr(body)
	if err != nil || !want(source) {
		return fmt.Errorf("get %s from %s: the server saw %q", url, n.Name, body)
	}
	return nil
}

// lookups are DNS queries of every kind that Tor answers, to whomever.
func lookups(n *testnet.Node) []func() error {
	servers := []netip.Addr{
		testnet.LANRouter4, testnet.LANRouter6, testnet.LANRouterULA, testnet.WANRouter4,
		testnet.Resolver4, testnet.PublicResolver4, testnet.PublicResolver6,
		netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd99::53"),
	}
	if link, err := n.Netlink().LinkByName("eth0"); err == nil {
		// The router's link-local address, which it may have announced.
		zone := strconv.Itoa(link.Attrs().Index)
		servers = append(servers, netip.MustParseAddr("fe80::ff:fe00:5001").WithZone(zone))
	}
	return lookupsAt(n, n.Name, servers)
}

// lookupsAt asks servers for names that begin with a label.
func lookupsAt(n *testnet.Node, label string, servers []netip.Addr) []func() error {
	var out []func() error
	for i, server := range servers {
		for _, proto := range []string{"udp", "tcp"} {
			name := fmt.Sprintf("%s-%d-%s.%s", label, i, proto, testnet.Zone)
			for _, q := range []struct{ name, qtype, want string }{
				{name, "A", testnet.Web4.String()},
				{name, "AAAA", testnet.Web6.String()},
				{reverse(testnet.Web4), "PTR", "web." + testnet.Zone + "."},
			} {
				out = append(out, func() error { return lookup(n, at(server, testnet.PortDNS), q.name, q.qtype, proto, q.want) })
			}
		}
	}
	return out
}

func reverse(addr netip.Addr) string {
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		panic(err) // the lab's addresses all have one
	}
	return name
}

// lookup asks until there is an answer: tor says SERVFAIL when a circuit broke.
func lookup(n *testnet.Node, server netip.AddrPort, name, qtype, proto, want string) error {
	var err error
	for range 3 {
		var reply *dns.Msg
		if reply, err = testnet.DNSQuery(n, server, name, qtype, proto, patience/2); err != nil {
			continue
		}
		var got []string
		for _, rr := range reply.Answer {
			got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if len(got) == 1 && got[0] == want {
			return nil
		}
		err = fmt.Errorf("%s of %s from %s by %s at %v: got %s %q, want %q",
			qtype, name, n.Name, proto, server, dns.RcodeToString[reply.Rcode], got, want)
	}
	return err
}

// checkOnionV6 opens the onion by its IPv6 address.
func checkOnionV6(t *testing.T, lab *testnet.Lab, n *testnet.Node) {
	t.Helper()
	reply, err := testnet.DNSQuery(n, n.Resolver, lab.Tor.Onion, "AAAA", "udp", torPatience)
	if err != nil {
		t.Error(err)
		return
	}
	for _, rr := range reply.Answer {
		if aaaa, ok := rr.(*dns.AAAA); ok {
			isOnion := func(a netip.Addr) bool { return a == lab.Tor.OnionSource }
			if err := fetch(n, fmt.Sprintf("http://[%v]/", aaaa.AAAA), isOnion); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Errorf("AAAA of the onion from %s: %v", n.Name, reply)
}

// checkServersSawExitsOnly looks at who came to the servers since forget.
func checkServersSawExitsOnly(t testing.TB, lab *testnet.Lab) {
	t.Helper()
	visits := lab.Web.Visits()
	if len(visits) == 0 {
		t.Error("nobody came to the web server")
	}
	for _, v := range visits {
		if source := v.Source.Addr(); !lab.Tor.IsExit(source) && source != lab.Tor.OnionSource {
			t.Errorf("%s at %v saw %v", v.Service, v.Local, v.Source)
		}
	}
	for _, q := range lab.DNS.Queries() {
		if !lab.Tor.IsExit(q.Source.Addr()) {
			t.Errorf("the ISP's resolver was asked for %s %s by %v", q.Name, q.Type, q.Source)
		}
	}
	for _, q := range lab.RouterDNS.Queries() {
		t.Errorf("the router's own resolver was asked for %s %s by %v", q.Name, q.Type, q.Source)
	}
}

// checkStraysAreSeenWithoutTorbpf sends the same strays through a router without
// torbpf. What does not show up then says nothing when it does not show up.
func checkStraysAreSeenWithoutTorbpf(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	capture, err := lab.CaptureWAN(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sendStrays(t, lab.Client1)
	kinds := map[string]bool{}
	for _, p := range capture.NonTor() {
		kinds[fmt.Sprintf("%s %v %v", p.Proto, p.Dst, p.Fragment)] = true
	}
	t.Logf("%d kinds of stray packets are seen without torbpf", len(kinds))
	if len(kinds) < 100 {
		t.Errorf("only %d kinds of stray packets are seen without torbpf", len(kinds))
	}
}

// inParallel runs all checks, a few at a time, and reports each that failed.
func inParallel(t testing.TB, checks []func() error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(checks))
	places := make(chan struct{}, 16)
	for i, check := range checks {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			errs[i] = check()
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
