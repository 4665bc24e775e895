package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// linkVPN gives the router a second way out, wg0, that masquerades.
func linkVPN(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	linkTunnel(t, lab)
	userRules(t, lab, "inet", `chain masks { type nat hook postrouting priority 50; oifname "wg0" masquerade; }`)
}

// linkTunnel is its link alone.
func linkTunnel(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	err := lab.Link(testnet.Iface{Node: lab.ISP, Name: "wg-far", Addrs: []string{"10.66.0.1/24", "fd66::1/64"}},
		testnet.Iface{Node: lab.Router, Name: "wg0", Addrs: []string{"10.66.0.2/24", "fd66::2/64"}})
	if err != nil {
		t.Fatal(err)
	}
}

// wgQuick are the routes and rules by which wg-quick leads everything but the tunnel's own
// packets into it.
var wgQuick = []string{
	"ip route add default via 10.66.0.1 dev wg0 table 51820", "ip -6 route add default via fd66::1 dev wg0 table 51820",
	"ip rule add not fwmark 0xca6c table 51820", "ip -6 rule add not fwmark 0xca6c table 51820",
	"ip rule add table main suppress_prefixlength 0", "ip -6 rule add table main suppress_prefixlength 0",
}

// TestAVPNThatTakesEverythingIsNoExit, wherever its default route is; one that takes only
// what has a mark is.
func TestAVPNThatTakesEverythingIsNoExit(t *testing.T) {
	lab := plainLab(t, testnet.Options{})
	serveFlows(t, lab, testnet.Other4, testnet.Other6)
	linkVPN(t, lab)
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	n := lab.Client1
	exclude := func(verb string, args ...string) result {
		return runTorbpf(t, lab, append([]string{"exclude", verb, "--interface", "wg0"}, args...)...)
	}
	t.Run("marked packets alone", func(t *testing.T) {
		changed([]string{"ip route add default via 10.66.0.1 dev wg0 table 100", "ip rule add fwmark 0x100 table 100", "ip route add " + other4 + " via 10.66.0.1 dev wg0"},
			[]string{"ip route del default table 100", "ip rule del table 100", "ip route del " + other4})(t, lab)
		if r := exclude("add"); r.code != 0 || strings.Contains(r.stderr, "hardly anything") {
			t.Errorf("a VPN for some packets was not excluded: %v", r)
		}
		checkEcho(t, n, testnet.Other4)
		checkNoEcho(t, n, testnet.Web4)
		mustTorbpf(t, lab, "exclude", "del", "--interface", "wg0")
	})
	t.Run("half of the LAN", func(t *testing.T) {
		changed([]string{"ip route add default via 10.66.0.1 dev wg0 table 100", "ip rule add from 192.168.50.128/25 table 100"},
			[]string{"ip route del default table 100", "ip rule del table 100"})(t, lab)
		if r := exclude("add"); r.code != 2 || !strings.Contains(r.stderr, "--force") {
			t.Errorf("half of the LAN was let out: %v", r)
		}
	})
	t.Run("wg-quick", func(t *testing.T) {
		if r := exclude("add"); r.code != 0 {
			t.Fatalf("a VPN without routes was not excluded: %v", r)
		}
		undo := []string{"ip rule del table 51820", "ip -6 rule del table 51820", "ip rule del table main suppress_prefixlength 0", "ip -6 rule del table main suppress_prefixlength 0",
			"ip route del default table 51820", "ip -6 route del default table 51820"}
		changed(wgQuick, undo)(t, lab)
		const route = "wg0 has the default route 0.0.0.0/0 (table 51820)"
		if r := mustTorbpf(t, lab, attachArgs(lab, lan, "--no-wait")...); !strings.Contains(r.stderr, route) || !strings.Contains(r.stderr, "nothing goes by it") {
			t.Errorf("attach does not say that the VPN has become the way to everything: %v", r)
		}
		servers := []netip.Addr{testnet.Other4, testnet.Other6}
		checkNoEcho(t, n, servers...)
		mustTorbpf(t, lab, "exclude", "del", "--interface", "wg0")
		if r := exclude("add"); r.code != 2 || !strings.Contains(r.stderr, route) || !strings.Contains(r.stderr, "--force") {
			t.Errorf("the way to everything was excluded: %v", r)
		}
		checkNoEcho(t, n, servers...)
		if r := exclude("add", "--force"); r.code != 0 || !strings.Contains(r.stderr, "hardly anything is Tor's") {
			t.Errorf("nobody may insist: %v", r)
		}
		checkEcho(t, n, testnet.Other4) // for IPv6 the program's look-up does not know of suppressed routes
	})
}
