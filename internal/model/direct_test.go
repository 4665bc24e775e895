package model

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/torbpf/torbpf/internal/abi"
	"github.com/torbpf/torbpf/internal/config"
	"github.com/torbpf/torbpf/internal/plan"
)

// aPlan says of the home what a plan can: nothing is blocked, nothing carved
// out.
func aPlan() *plan.Plan {
	return &plan.Plan{
		Mark: plan.Mark{Shift: 24},
		LANs: []plan.LAN{{Name: "eth1", Index: lanIndex}},
		Local: []plan.LocalSubnet{
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Index: 7, Name: "wg0"},
			{Prefix: netip.MustParsePrefix("192.168.1.0/24"), Index: lanIndex, Name: "eth1"},
			{Prefix: netip.MustParsePrefix("fd00:1::/64"), Index: lanIndex, Name: "eth1"},
		},
		LocalAddrs: []netip.Addr{netip.MustParseAddr(router4), netip.MustParseAddr(router6), netip.MustParseAddr(subnet4)},
		Broadcasts: []netip.Addr{netip.MustParseAddr(subnet4)},
		Onion4:     netip.MustParsePrefix("10.192.0.0/10"),
		Onion6:     netip.MustParsePrefix("fd7a:6f6e::/32"),
		LocalMode:  config.LocalConnected,
		Inbound:    true,
		Rules: slices.Concat(
			config.DirectPrefixes(config.KindDestination, netip.MustParsePrefix("50.1.0.0/16"), netip.MustParsePrefix("2600:1::/32")),
			config.DirectPrefixes(config.KindSource, netip.MustParsePrefix(console4+"/32")),
			config.DirectMarks(config.Mark{Value: exemptMark, Mask: 0xff00})),
	}
}

func TestOnlyDirectAndLocalFlowsStay(t *testing.T) {
	p := FromPlan(aPlan())
	for _, c := range []struct {
		name     string
		protocol uint8
		src, dst string
		want     bool
	}{
		{"to the web", protoTCP, laptop4 + ":40000", web4 + ":443", false},
		{"to the web, IPv6", protoTCP, "[" + laptop6 + "]:40000", "[" + web6 + "]:443", false},
		{"UDP", protoUDP, laptop4 + ":40000", web4 + ":27015", false},
		{"ping", protoICMP, laptop4 + ":0", web4 + ":0", false},
		{"excluded destination", protoTCP, laptop4 + ":40000", excluded4 + ":443", true},
		{"excluded destination, IPv6", protoUDP, "[" + laptop6 + "]:40000", "[" + excluded6 + "]:443", true},
		{"excluded destination, as conntrack may write it", protoTCP, "[::ffff:" + laptop4 + "]:40000", "[::ffff:" + excluded4 + "]:443", true},
		{"excluded source", protoUDP, console4 + ":40000", web4 + ":443", true},
		{"DNS to the router", protoUDP, laptop4 + ":40000", router4 + ":53", false},
		{"DNS to an excluded destination", protoTCP, laptop4 + ":40000", excluded4 + ":53", false},
		{"DNS by broadcast", protoUDP, laptop4 + ":40000", subnet4 + ":53", false},
		{"SSH to the router", protoTCP, laptop4 + ":40000", router4 + ":22", true},
		{"a neighbour", protoTCP, laptop4 + ":40000", printer4 + ":9100", true},
		{"behind the VPN", protoTCP, laptop4 + ":40000", vpn4 + ":22", true},
		{"the local subnet wins over reserved space that is the same prefix", protoTCP, laptop4 + ":40000", private4 + ":22", true},
		{"private, beyond", protoTCP, laptop4 + ":40000", "172.16.0.1:22", false},
		{".onion", protoTCP, laptop4 + ":40000", onion4 + ":80", false},
		{".onion from an excluded source", protoTCP, console4 + ":40000", onion4 + ":80", false},
	} {
		f := plan.Flow{Protocol: c.protocol, Src: netip.MustParseAddrPort(c.src), Dst: netip.MustParseAddrPort(c.dst), Mark: exemptMark}
		if got := p.MayStay(f); got != c.want {
			t.Errorf("%s: stays %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPolicyFollowsItsPlan(t *testing.T) {
	for mode, want := range map[config.LocalMode]abi.Reason{
		config.LocalConnected: abi.ReasonPrivate,
		config.LocalReserved:  abi.ReasonReservedOpen,
		config.LocalNone:      abi.ReasonPrivate,
	} {
		made := aPlan()
		made.LocalMode = mode
		made.Rules = slices.DeleteFunc(made.Rules, func(r config.Rule) bool { return r.Kind == config.KindMark })
		p := FromPlan(made)
		k := Parse(ip(laptop4, "172.16.0.1", udp(1, 2)), false, Metadata{Protocol: etherIPv4})
		if _, got := p.Classify(k); got != want {
			t.Errorf("local %s: reserved space is %s, want %s", mode, got, want)
		}
	}
	made := aPlan()
	game := Parse(ip(laptop4, web4, udp(1, 2)), false, Metadata{Protocol: etherIPv4})
	if _, got := FromPlan(made).Classify(game); got != abi.ReasonLateMark {
		t.Errorf("with exempt marks UDP is %s, want %s", got, abi.ReasonLateMark)
	}
	game.Mark = exemptMark | 0x05000000
	if _, got := FromPlan(made).Classify(game); got != abi.ReasonExemptMark {
		t.Errorf("with an exempt mark UDP is %s, want %s", got, abi.ReasonExemptMark)
	}
	p := FromPlan(made)
	query := Parse(ip(laptop4, subnet4, udp(1, 53)), false, Metadata{Protocol: etherIPv4})
	if _, got := p.Classify(query); got != abi.ReasonRouterDNS {
		t.Errorf("DNS by broadcast is %s, want %s", got, abi.ReasonRouterDNS)
	}
	if verdict, got := p.Judge(Parse(ip(laptop4, web4, tcp(1, 2, tcpSYN)), false, Metadata{Protocol: etherIPv4})); verdict != abi.VerdictRefused || got != abi.ReasonTorNotReady {
		t.Errorf("before the sentry speaks TCP is %s, %s", verdict, got)
	}
}
