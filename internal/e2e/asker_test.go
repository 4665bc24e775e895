package e2e

import (
	"net/netip"
	"testing"

	"github.com/torbpf/torbpf/internal/leaktest"
	"github.com/torbpf/torbpf/testnet"
)

// TestWhoForgesASourceLetsOutNobodyElse: the answer for an excluded name is direct for the
// device that the question came from, not for the one that it names.
func TestWhoForgesASourceLetsOutNobodyElse(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	mustTorbpf(t, lab, "exclude", "add", "--resolver", testnet.Resolver4.String(), "--domain", "other."+testnet.Zone, "www."+testnet.Zone)
	forger, victim := lab.Client1, lab.Client2
	for _, c := range []struct {
		source, router netip.Addr
		name           string
		stands         netip.Addr
	}{
		{victim.IPv4, testnet.LANRouter4, "other." + testnet.Zone, testnet.Other4},
		{victim.IPv6, testnet.LANRouter6, "www." + testnet.Zone, testnet.Web4},
	} {
		if _, err := testnet.DNSQuery(victim, at(c.router, testnet.PortDNS), "localhost", "A", "udp", patience); err != nil {
			t.Fatal(err) // the router knows whose address it is
		}
		checkNoEcho(t, forger, c.stands)
		if err := testnet.SendRaw(forger, testnet.UDPDatagram(at(c.source, 40000), at(c.router, testnet.PortDNS), leaktest.Query(c.name))); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the answer to the forged question", func() error {
			return testnet.Echo(forger, "udp", at(c.stands, testnet.PortHTTPS), hush)
		})
		checkNoEcho(t, victim, c.stands)
		if err := lookup(victim, victim.Resolver, c.name, "A", "udp", c.stands.String()); err != nil {
			t.Error(err)
		}
		checkEcho(t, victim, c.stands)
	}
}

// TestDevicesBehindARouterOfTheirOwn are let out as the one whose frames theirs are in.
func TestDevicesBehindARouterOfTheirOwn(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	router := lab.Client1
	behind, err := lab.AddNode("behind")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Link(testnet.Iface{Node: router, Name: "eth1", Addrs: []string{"192.168.77.1/24"}}, testnet.Iface{Node: behind, Name: "eth0", Addrs: []string{"192.168.77.2/24"}}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		router.Sysctl("net.ipv4.ip_forward=1"),
		behind.AddRoute("0.0.0.0/0", netip.MustParseAddr("192.168.77.1")),
		lab.Router.AddRoute("192.168.77.0/24", router.IPv4),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	for proto, c := range map[string]struct {
		name   string
		stands netip.Addr
	}{"udp": {"other." + testnet.Zone, testnet.Other4}, "tcp": {"www." + testnet.Zone, testnet.Web4}} {
		mustTorbpf(t, lab, "exclude", "add", "--domain", c.name, "--resolver", testnet.Resolver4.String())
		checkNoEcho(t, behind, c.stands)
		if err := lookup(behind, at(testnet.LANRouter4, testnet.PortDNS), c.name, "A", proto, c.stands.String()); err != nil {
			t.Error(err)
		}
		checkEcho(t, behind, c.stands)
		checkNoEcho(t, lab.Client2, c.stands)
	}
}
