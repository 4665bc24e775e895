package host

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/torbpf/torbpf/internal/plan"
)

// classVia is a mark such as packets to an excluded interface bear.
const classVia = 0x04000000

// waysIn returns where the LAN of the small router would get, each route once, sorted.
func waysIn(t *testing.T, addrs ...string) []string {
	t.Helper()
	h := read(t)
	lan := plan.LAN{Name: "lan0", Index: link(t, h, "lan0").Index}
	for _, a := range addrs {
		prefix := netip.MustParsePrefix(a)
		lan.Addrs = append(lan.Addrs, prefix)
		lan.Prefixes = append(lan.Prefixes, prefix.Masked())
	}
	return wayWords(h, Ways([]plan.LAN{lan}, classVia))
}

func wayWords(h plan.Host, ways []plan.Route) []string {
	var out []string
	for _, r := range ways {
		l, _ := h.LinkByIndex(r.Index)
		out = append(out, fmt.Sprintf("%s by %s, table %d", r.Dst, l.Name, r.Table))
	}
	slices.Sort(out)
	return out
}

// TestWaysAreThoseOfAForwardedPacket: rules, interfaces, sources and marks count as they do
// for what a LAN sends.
func TestWaysAreThoseOfAForwardedPacket(t *testing.T) {
	const vpn = `
ip route add default via 203.0.113.1
ip -6 route add default via 2001:db8:1::1
ip -6 addr add fd05::1/64 dev lan0 nodad
ip route add default dev tun0 table 51820
ip -6 route add default dev tun0 table 51820
`
	const byWAN4, byWAN6 = "0.0.0.0/0 by wan0, table 254", "::/0 by wan0, table 254"
	const byVPN4, byVPN6 = "0.0.0.0/0 by tun0, table 51820", "::/0 by tun0, table 51820"
	for name, c := range map[string]struct {
		rules string
		want  []string
	}{
		"no rule":            {"", []string{byWAN4, byWAN6}},
		"wg-quick":           {"ip rule add not fwmark 0xca6c table 51820\nip rule add table main suppress_prefixlength 0\nip -6 rule add not fwmark 0xca6c table 51820\nip -6 rule add table main suppress_prefixlength 0", []string{byVPN4, byVPN6}},
		"IPv6 alone":         {"ip -6 rule add not fwmark 0xca6c table 51820", []string{byWAN4, byVPN6}},
		"what has a mark":    {"ip rule add fwmark 0x100 table 51820", []string{byWAN4, byWAN6}},
		"what the LAN sends": {"ip rule add iif lan0 table 51820", []string{byVPN4, byWAN6}},
		"the router's own":   {"ip rule add iif lo table 51820", []string{byWAN4, byWAN6}},
		"half of the LAN":    {"ip rule add from 192.168.5.128/25 table 51820", []string{byVPN4, byWAN4, byWAN6}},
		"one device":         {"ip rule add from 192.168.5.7 table 51820", []string{byWAN4, byWAN6}},
		"half of the world":  {"ip route add 128.0.0.0/1 dev tun0 table 100\nip rule add table 100", []string{byWAN4, "128.0.0.0/1 by tun0, table 100", byWAN6}},
		"none of the LAN":    {"ip rule add iif lan0 unreachable\nip rule add iif lo table 51820", []string{byVPN4, byWAN6}},
	} {
		t.Run(name, func(t *testing.T) {
			enterNamespace(t)
			run(t, router+vpn+c.rules)
			set(t, "net.ipv4.ip_forward", "1")
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, waysIn(t, "192.168.5.1/24", "fd05::1/64")); diff != "" {
				t.Errorf("ways differ (-want +got):\n%s", diff)
			}
			set(t, "net.ipv4.ip_forward", "0")
		})
	}
}

// TestOwnWaysAreThoseOfWhatThisMachineSends: what rules say of LANs does not count.
func TestOwnWaysAreThoseOfWhatThisMachineSends(t *testing.T) {
	const byWAN, byVPN = "0.0.0.0/0 by wan0, table 254", "0.0.0.0/0 by tun0, table 51820"
	for rule, want := range map[string]string{
		"":                              byWAN,
		"not fwmark 0xca6c table 51820": byVPN,
		"iif lan0 table 51820":          byWAN,
		"iif lo table 51820":            byVPN,
		"fwmark 0x04000000/0x0f000000 table 51820": byVPN,
	} {
		t.Run(rule, func(t *testing.T) {
			enterNamespace(t)
			run(t, router+"ip route add default via 203.0.113.1\nip route add default dev tun0 table 51820")
			if rule != "" {
				run(t, "ip rule add "+rule)
			}
			if diff := cmp.Diff([]string{want}, wayWords(read(t), OwnWays(classVia))); diff != "" {
				t.Errorf("ways differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWaysAreAskedForBeforeAnythingIsForwarded: exclude may turn forwarding on afterwards.
func TestWaysAreAskedForBeforeAnythingIsForwarded(t *testing.T) {
	enterNamespace(t)
	run(t, router+"ip route add default dev tun0 table 51820\nip rule add not fwmark 0xca6c table 51820")
	set(t, "net.ipv4.ip_forward", "0")
	if diff := cmp.Diff([]string{"0.0.0.0/0 by tun0, table 51820"}, waysIn(t, "192.168.5.1/24")); diff != "" {
		t.Errorf("ways differ (-want +got):\n%s", diff)
	}
}

// TestSourcesAreNobodysOwn: neither the router's address nor one of no host.
func TestSourcesAreNobodysOwn(t *testing.T) {
	lan := plan.LAN{}
	for _, a := range []string{"192.168.0.1/24", "192.168.1.1/24", "10.9.0.1/30", "10.8.0.1/32", "fe80::1/64", "fd05::1/64"} {
		lan.Addrs = append(lan.Addrs, netip.MustParsePrefix(a))
	}
	for _, p := range []string{"192.168.0.0/23", "10.9.0.0/30", "10.8.0.1/32", "10.8.0.2/32", "fe80::/10", "fd05::/64"} {
		lan.Prefixes = append(lan.Prefixes, netip.MustParsePrefix(p))
	}
	var got []string
	for _, a := range sourcesOf(lan) {
		got = append(got, a.String())
	}
	slices.Sort(got)
	want := []string{"10.8.0.2", "10.9.0.2", "192.168.0.127", "192.168.0.128", "192.168.0.255", "192.168.1.0", "192.168.1.127", "192.168.1.128",
		"fd05::7fff:ffff:ffff:ffff", "fd05::8000:0:0:0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sources differ (-want +got):\n%s", diff)
	}
}
