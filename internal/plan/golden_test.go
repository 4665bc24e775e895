package plan

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/torbpf/torbpf/internal/config"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

func TestPlansReadAsExpected(t *testing.T) {
	for name, build := range map[string]func(*testing.T) (config.Config, Host){
		"home":       home,
		"pppoe":      pppoe,
		"vpn":        vpn,
		"docker":     docker,
		"two-lans":   twoLANs,
		"ipv6":       delegatedPrefix,
		"exclusions": excluding,
		"forced":     forced,
	} {
		t.Run(name, func(t *testing.T) {
			cfg, host := build(t)
			p, err := Make(cfg, host)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(p.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if p.String() != string(want) {
				t.Errorf("plan differs from %s (refresh with -update):\n%s", file, p)
			}
		})
	}
}

func home(t *testing.T) (config.Config, Host) {
	return wish("eth1"), homeRouter(t).Host
}

// The uplink has no Ethernet header; the modem stays reachable below it.
func pppoe(t *testing.T) (config.Config, Host) {
	return wish("eth1"), newHost(t).link("eth0", "").link("eth1", "").link("ppp0", "ppp").
		addr("eth0", "192.168.100.2/24").
		addr("eth1", "10.0.0.1/16").
		addr("ppp0", "203.0.113.9/32").
		route("0.0.0.0/0", "ppp0").
		route("203.0.113.1/32", "ppp0").
		route("192.168.100.0/24", "eth0").
		route("10.0.0.0/16", "eth1").Host
}

// wg-quick with everything in the tunnel, and another client's split default.
func vpn(t *testing.T) (config.Config, Host) {
	b := homeRouter(t).link("wg0", "wireguard").link("tun0", "tun").link("wg1", "wireguard").
		addr("wg0", "10.64.0.2/32").
		addr("tun0", "10.8.0.6/24").
		addr("wg1", "10.9.0.1/24").
		routeIn(51820, "0.0.0.0/0", "wg0").
		route("0.0.0.0/1", "tun0").route("128.0.0.0/1", "tun0").
		route("172.20.0.0/16", "tun0").
		route("10.9.0.0/24", "wg1").route("10.77.0.0/16", "wg1").
		rule(32764, 0xca6c, config.FullMask)
	return wish("eth1"), b.Host
}

// Containers talk through docker0, and their networks are local.
func docker(t *testing.T) (config.Config, Host) {
	b := homeRouter(t).link("docker0", "bridge").link("br-1a2b", "bridge").link("veth1", "veth").
		master("veth1", "docker0").
		addr("docker0", "172.17.0.1/16").
		addr("br-1a2b", "172.18.0.1/16").
		route("172.17.0.0/16", "docker0").
		route("172.18.0.0/16", "br-1a2b")
	b.BridgeNF = true
	return wish("eth1"), b.Host
}

// A bridge and a VLAN, one named twice, with a subnet behind one of the LANs
// that both lead to.
func twoLANs(t *testing.T) (config.Config, Host) {
	b := newHost(t).link("wan", "").link("lan1", "").link("lan2", "").link("br-lan", "bridge").link("lan2.20", "vlan").
		master("lan1", "br-lan").parent("lan2.20", "lan2").
		addr("wan", "192.0.2.44/30").
		addr("br-lan", "169.254.7.1/16", "192.168.1.1/24", "192.168.2.1/24").
		addr("lan2.20", "10.20.0.1/22").
		route("0.0.0.0/0", "wan").
		route("192.168.1.0/24", "br-lan").
		route("192.168.0.0/16", "br-lan").
		route("172.16.5.0/24", "lan2.20").route("172.16.5.0/24", "br-lan").
		route("224.0.0.0/4", "br-lan")
	return wish("lan2.20", "br-lan", "lan2.20"), b.Host
}

// A delegated /56, of which the LAN has a /64 and a router behind it a /60;
// this kernel lists multicast as a unicast route.
func delegatedPrefix(t *testing.T) (config.Config, Host) {
	b := homeRouter(t).
		addr("eth0", "2001:db8:ffff::2/64").
		addr("eth1", "fd12:3456:789a:1::1/64", "2001:db8:0:100::1/64").
		routeIn(254, "::/0", "eth0").
		route("2001:db8:ffff::/64", "eth0").
		route("2001:db8:0:100::/64", "eth1").
		route("2001:db8:0:110::/60", "eth1").
		route("fd12:3456:789a:1::/64", "eth1").
		routeIn(255, "ff00::/8", "eth0").routeIn(255, "ff00::/8", "eth1")
	return wish("eth1"), b.Host
}

func excluding(t *testing.T) (config.Config, Host) {
	c := wish("eth1")
	c.Local, c.Inbound, c.MarkShift = config.LocalReserved, false, 16
	c.Uplinks = []string{"wwan0", "eth0"}
	c.Tor.Onion6 = netip.MustParsePrefix("fd00:7e57::/48")
	carved := config.DirectPrefixes(config.KindDestination, prefixList("104.18.0.0/16")...)
	carved[0].Policy = config.PolicyTor
	var others config.Rules
	for _, r := range [][2]string{{"port", "53/udp@10.8.0.1"}, {"device", "02:00:00:00:00:07"}, {"interface", "wg0"}} {
		e, err := config.ParseEntry(config.Kind(r[0]), r[1])
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, config.Direct(e))
	}
	others = append(others, config.Direct(config.Entry{Kind: config.KindInterface, Interface: "wg9"}))
	others[0].Until = time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	c.Rules = slices.Concat(
		config.DirectPrefixes(config.KindDestination, prefixList("104.16.9.9/13", "104.17.0.0/16", "10.0.0.0/8", "2606:4700::/32")...),
		config.DirectPrefixes(config.KindSource, prefixList("192.168.1.64/26", "192.168.1.70/32")...),
		config.DirectMarks(config.Mark{Value: 0x100, Mask: config.FullMask}, config.Mark{Value: 0x1, Mask: 0xff}),
		carved, others)
	return c, homeRouter(t).link("wwan0", "").link("wg0", "wireguard").addr("wg0", "10.9.0.2/24").route("10.9.0.0/24", "wg0").Host
}

// One interface for everything, and no uplink beside it.
func forced(t *testing.T) (config.Config, Host) {
	c := wish("eth0")
	c.Force = true
	return c, newHost(t).link("eth0", "").addr("eth0", "192.168.1.5/24").
		route("0.0.0.0/0", "eth0").route("192.168.1.0/24", "eth0").Host
}
