package e2e

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/torbpf/torbpf/testnet"
)

// TestATunnelOfWgQuickTakesWhatIsExcluded, and nothing else, where everything is routed into it by ip rules and a
// mark: with wg-quick's own firewall, which has UDP go nowhere, and with the rules that the
// documentation has. The kernel's WireGuard, or one in user space.
func TestATunnelOfWgQuickTakesWhatIsExcluded(t *testing.T) {
	const words = "so UDP that is excluded goes nowhere"
	_, _, _, recipe := vpnRecipes(t)
	for name, own := range map[string][]string{"wg-quick's rules": nil, "rules of the documentation": recipe} {
		t.Run(name, func(t *testing.T) {
			lab := plainLab(t, testnet.Options{})
			v := everythingByWgQuick(t, lab, own)
			w := captureWAN(t, lab)
			port := v.port(t)
			checkNothingByTunnel(t, lab)
			r := mustTorbpf(t, lab, "exclude", "add", other4, other6)
			for _, told := range []result{r, mustTorbpf(t, lab, "status")} {
				if has := strings.Contains(told.stdout+told.stderr, words); has != (own == nil) {
					t.Errorf("it is told of UDP: %t: %v", has, told)
				}
			}
			checkByTunnel(t, lab, own != nil)
			strays, sent := v.strays(t, w, port)
			if sent == 0 || len(strays) > 0 {
				t.Errorf("on the WAN are %d packets of the tunnel, and %v", sent, strays)
			}
			mustTorbpf(t, lab, "exclude", "add", "--interface", "wg0", "--force")
			checkTunnelGone(t, v)
		})
	}
}

// everythingByWgQuick has all that is routed go by a tunnel, which carries the LAN before it is attached and
// then nothing.
func everythingByWgQuick(t *testing.T, lab *testnet.Lab, own []string) *tunnel {
	t.Helper()
	serveFlows(t, lab, testnet.Web4, testnet.Other4, testnet.Other6)
	v := openTunnel(t, lab, "0.0.0.0/0, ::/0", own...)
	userRules(t, lab, "inet", `chain masks { type nat hook postrouting priority 50; oifname "wg0" masquerade; }`)
	rulesOf(t, lab.Internet, "inet", `counter inside {}
		chain arrived { type filter hook prerouting priority -310; iifname "wg-far0" counter name inside; }`)
	before := openFlow(t, lab.Client1, "tcp", at(testnet.Web4, portFlows))
	if inside(t, lab) == 0 {
		t.Fatal("before torbpf the tunnel takes nothing")
	}
	attach(t, lab, lan, "--no-wait", "--torrc", loneTorrc(t, lab))
	if names := guardedUplinks(t, lab); !slices.Contains(names, "wg0") || !slices.Contains(names, wan) {
		t.Errorf("uplinks with a guard are %v", names)
	}
	if err := before.ends(); err != nil {
		t.Error(err)
	}
	return v
}

// checkNothingByTunnel has a device try all that it may not send.
func checkNothingByTunnel(t *testing.T, lab *testnet.Lab) {
	t.Helper()
	old := inside(t, lab)
	checkNoEcho(t, lab.Client1, testnet.Web4, testnet.Web6)
	sendStrays(t, lab.Client1)
	if now := inside(t, lab); now != old {
		t.Errorf("nothing is excluded, and %d packets have come by the tunnel", now-old)
	}
}

// checkByTunnel wants what is excluded there by TCP, and by UDP or not at all.
func checkByTunnel(t *testing.T, lab *testnet.Lab, udp bool) {
	t.Helper()
	for _, server := range []netip.Addr{testnet.Other4, testnet.Other6} {
		old := inside(t, lab)
		openFlow(t, lab.Client1, "tcp", at(server, portFlows))
		if inside(t, lab) == old {
			t.Errorf("TCP to %v has gone elsewhere", server)
		}
	}
	if udp {
		old := inside(t, lab)
		checkEcho(t, lab.Client1, testnet.Other4, testnet.Other6)
		if now := inside(t, lab); now < old+4 {
			t.Errorf("of 4 packets %d have come by the tunnel", now-old)
		}
	} else {
		checkUnanswered(t, lab.Client1, testnet.Other4, testnet.Other6)
	}
	checkNoEcho(t, lab.Client1, testnet.Web4, testnet.Web6)
}

// checkTunnelGone takes the interface away, which the rules that led there outlive, while what is routed to it is
// excluded.
func checkTunnelGone(t *testing.T, v *tunnel) {
	t.Helper()
	f := openFlow(t, v.lab.Client1, "tcp", at(testnet.Web4, portFlows))
	w := captureWAN(t, v.lab)
	run(t, v.lab.Router, "ip", "link", "del", "wg0")
	if err := f.echo(); err == nil {
		t.Error("a connection by the tunnel goes on without it")
	}
	for _, server := range []netip.Addr{testnet.Web4, testnet.Web6} {
		if err := testnet.Echo(v.lab.Client1, "udp", at(server, testnet.PortEcho), hush); err == nil {
			t.Errorf("%v answers without the tunnel", server)
		}
	}
	for _, p := range w.NonTor() {
		if p.Dst.Addr() != vpnEndpoint.Addr() { // which was on its way
			t.Errorf("without the tunnel, on the WAN: %v", p)
		}
	}
}

// inside is how many packets have come out of the tunnel.
func inside(t *testing.T, lab *testnet.Lab) int {
	t.Helper()
	n, err := strconv.Atoi(counted.FindStringSubmatch(run(t, lab.Internet, "nft", "list", "counter", "inet", "users_own", "inside"))[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
